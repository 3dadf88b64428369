"""Heatmaps against the official numbers, and decode(encode(p)) = p."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heads.codec import HeatmapCodec, Refine
from heads.geometry import Alignment, Crop, cell_scale, flip_heatmaps
from heads.skeleton import COCO_17
from models.errors import ShapeError

SIZE, CELLS = (256, 192), (64, 48)


def reference_maps(fill: Any, case: dict[str, Any]) -> Any:
    maps = fill.make_heatmaps(
        case["shape"], case["key"], case.get("noise", 0.01), case.get("margin", -1)
    ).numpy()
    negated = case.get("negated_joint")
    if negated is not None:
        maps[:, negated] = -np.abs(maps[:, negated]) - np.float32(0.001)
    return maps


def test_decoding_is_the_official_one(legacy: Any, fill: Any) -> None:
    for case in legacy["legacy"]["decode"]:
        maps = reference_maps(fill, case["heatmaps"])
        h, w = maps.shape[2:]
        kinds: tuple[tuple[str, Refine], ...]
        kinds = (("final_preds_post_process", "quarter"), ("final_preds_plain", "none"))
        for key, refine in kinds:
            codec = HeatmapCodec((4 * h, 4 * w), (h, w), "legacy", refine=refine)
            points, scores = codec.decode(maps)
            np.testing.assert_allclose(
                scores, np.array(case["maxvals"]).reshape(scores.shape), 1e-6
            )
            for found, center, scale, expected in zip(
                points, case["center"], case["scale"], case[key], strict=True
            ):
                width, height = scale[0] * 200, scale[0] * 200 * h / w
                box = (center[0] - width / 2, center[1] - height / 2, width, height)
                crop = Crop.around(box, (4 * h, 4 * w), alignment="legacy", padding=1.0)
                np.testing.assert_allclose(crop.to_image(found), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("key", "alignment", "refine"),
    [("msra", "legacy", "quarter"), ("dark", "legacy", "dark"), ("udp", "udp", "dark")],
)
def test_decoding_is_that_of_mmpose(
    legacy: Any, fill: Any, key: str, alignment: Any, refine: Any
) -> None:
    cases = [case for case in legacy["mmpose"]["decode"] if key in case]
    assert cases
    for case in cases:
        maps = reference_maps(fill, case["heatmaps"])
        width, height = case["image_size"]
        codec = HeatmapCodec(
            (height, width),
            maps.shape[2:],
            alignment,
            refine=refine,
            blur_kernel=case["blur_kernel_size"],
        )
        points, scores = codec.decode(maps)
        expected = np.array(case[key]["keypoints"]).reshape(points.shape)
        if key == "udp":  # mmpose scales (w - 1) cells to w pixels; its way to the image undoes it
            expected = expected * [(width - 1) / width, (height - 1) / height]
        same = np.setdiff1d(np.arange(points.shape[1]), case[key].get("differs_in_0x", []))
        # Seven digits of numbers up to 255, after a float32 blur there and a float64 one here.
        np.testing.assert_allclose(points[:, same], expected[:, same], atol=2e-4)
        np.testing.assert_allclose(scores.ravel(), case[key]["scores"], rtol=1e-6)


@pytest.mark.parametrize(
    ("part", "key", "alignment", "unbiased"),
    [
        ("legacy", "targets", "legacy", False),
        ("mmpose", "msra", "legacy", False),
        ("mmpose", "dark", "legacy", True),
        ("mmpose", "udp", "udp", False),
    ],
)
def test_targets_are_the_official_ones(
    legacy: Any, part: str, key: str, alignment: Any, unbiased: bool
) -> None:
    for case in legacy[part]["generate_target" if part == "legacy" else "encode"]:
        width, height = case["image_size"]
        codec = HeatmapCodec(
            (height, width),
            tuple(case["heatmap_size"][::-1]),
            alignment,
            sigma=case["sigma"],
            unbiased=unbiased,
        )
        maps, weights = codec.encode(np.array(case["joints"]), np.array(case["visible"]))
        whole = part == "legacy"
        expected = case["targets"] if whole else case[key]["maps"]
        np.testing.assert_array_equal(
            weights, case["target_weight"] if whole else case[key]["weights"]
        )
        for made, reference in zip(maps, expected, strict=True):
            assert np.count_nonzero(made) == reference["nonzero"]
            assert made.sum() == pytest.approx(reference["sum"], rel=1e-5)
            if reference["nonzero"]:
                x, y = reference["peak"]
                assert made[y, x] == made.max()
                row, column = made[y], made[:, x]
                if whole:
                    row = row[reference["row_start"] :][: len(reference["row"])]
                    column = column[reference["column_start"] :][: len(reference["column"])]
                else:
                    row, column = row[::3], column[::4]
                np.testing.assert_allclose(row, reference["row"], atol=2e-6)
                np.testing.assert_allclose(column, reference["column"], atol=2e-6)


inside = st.tuples(st.floats(0, 191), st.floats(0, 255))


@given(st.lists(inside, min_size=1, max_size=20))
def test_decode_of_encode_is_within_a_tenth_of_a_cell(points: list[tuple[float, float]]) -> None:
    codec = HeatmapCodec(SIZE, CELLS)
    expected = np.array(points)[None]
    maps, weights = codec.encode(expected, np.ones(expected.shape[:2]))
    assert (weights == 1).all()
    found, scores = codec.decode(maps)
    # The log of a Gaussian is a parabola, so the Newton step is exact but for float32 maps.
    assert np.abs(found - expected).max() < 0.01 * 191 / 47
    assert (scores > 0.8).all()


def test_legacy_round_trip_loses_half_a_cell() -> None:
    """What `legacy` costs: the point is rounded to a cell before its Gaussian is drawn."""
    points = np.array([[[81.9, 101.9]]])
    codec = HeatmapCodec(SIZE, CELLS, "legacy", refine="none")
    found, _ = codec.decode(codec.encode(points, np.ones((1, 1)))[0])
    np.testing.assert_array_equal(found, [[[80, 100]]])


@given(st.floats(-1e5, 1e5), st.floats(-1e5, 1e5))
def test_a_point_that_does_not_touch_the_map_weighs_nothing(x: float, y: float) -> None:
    codec = HeatmapCodec(SIZE, CELLS)
    maps, weights = codec.encode(np.array([[x, y]]), np.ones(1))
    cells = np.array([x / (191 / 47), y / (255 / 63)])
    outside = ((cells < -7.5) | (cells > np.array([54.5, 70.5]))).any()
    if outside:
        assert weights[0] == 0
    assert (maps.any() and weights[0] == 1) or not maps.any()


@pytest.mark.parametrize(("alignment", "weight"), [("udp", 0), ("legacy", 1)])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_point_one_cell_beyond_the_first_is_seen_by_the_official_code_alone(
    alignment: Any, weight: int, axis: int
) -> None:
    codec = HeatmapCodec(SIZE, CELLS, alignment)
    point = np.array([100.0, 100.0])
    point[axis] = -32  # eight cells, rounded to seven; the Gaussian ends after six
    maps, weights = codec.encode(point[None], np.ones(1))
    assert weights[0] == weight
    assert not maps.any()


@pytest.mark.parametrize("at", [50.0, np.nan])
def test_an_unlabelled_keypoint_weighs_nothing(at: float) -> None:
    maps, weights = HeatmapCodec(SIZE, CELLS).encode(np.array([[at, at]]), np.zeros(1))
    assert weights[0] == 0
    assert not maps.any()


def test_a_flat_map_has_score_0() -> None:
    points, scores = HeatmapCodec(SIZE, CELLS).decode(np.zeros((1, 2, *CELLS), np.float32))
    np.testing.assert_array_equal(points, 0)
    np.testing.assert_array_equal(scores, 0)


def test_noise_on_a_flat_map_moves_a_point_by_no_more_than_three_cells() -> None:
    """There a Newton step by itself may be hundreds of cells long."""
    noise = np.random.default_rng(0).random((20, 17, *CELLS), dtype=np.float32)
    maps = 0.5 + 1e-3 * noise
    found, _ = HeatmapCodec(SIZE, CELLS).decode(maps)
    peaks, _ = HeatmapCodec(SIZE, CELLS, refine="none").decode(maps)
    moved = np.abs(found - peaks) / [191 / 47, 255 / 63]
    assert moved.max() == pytest.approx(3, abs=1e-4)


def test_people_do_not_depend_on_their_neighbours() -> None:
    maps = np.random.default_rng(0).random((5, 17, *CELLS), dtype=np.float32)
    codec = HeatmapCodec(SIZE, CELLS)
    together, _ = codec.decode(maps)
    alone = np.concatenate([codec.decode(maps[i : i + 1])[0] for i in range(5)])
    np.testing.assert_array_equal(together, alone)


def test_maps_of_another_size_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"64, 48.*\(1, 17, 48, 64\)"):
        HeatmapCodec(SIZE, CELLS).decode(np.zeros((1, 17, 48, 64), np.float32))
    with pytest.raises(ShapeError, match="do not fit"):
        HeatmapCodec(SIZE, CELLS).encode(np.zeros((3, 2)), np.zeros(4))


def test_flip_test_and_decoding_together_are_the_official_evaluation(
    legacy: Any, fill: Any
) -> None:
    """The official validation loop: flip back, shift, average, quarter offset, map to the image."""
    for case in legacy["legacy"]["validate"]:
        maps = reference_maps(fill, case["heatmaps"])
        if case["flip_test"]:
            mirrored = reference_maps(fill, case["heatmaps_of_flipped_input"])
            alignment: Alignment = "legacy" if case["shift_heatmap"] else "udp"
            maps = (maps + flip_heatmaps(mirrored, COCO_17.flip_order, alignment)) / 2
        h, w = maps.shape[2:]
        refine: Refine = "quarter" if case["post_process"] else "none"
        codec = HeatmapCodec((4 * h, 4 * w), (h, w), "legacy", refine=refine)
        points, scores = codec.decode(maps)
        np.testing.assert_allclose(scores, np.reshape(case["maxvals"], scores.shape), rtol=1e-5)
        for found, center, scale, expected in zip(
            points, case["center"], case["scale"], case["preds"], strict=True
        ):
            width, height = scale[0] * 200, scale[0] * 200 * h / w
            box = (center[0] - width / 2, center[1] - height / 2, width, height)
            crop = Crop.around(box, (4 * h, 4 * w), alignment="legacy", padding=1.0)
            np.testing.assert_allclose(crop.to_image(found), expected, atol=1e-3)


def feet(codec: HeatmapCodec, floor: float) -> Any:
    """Maps [N, 1, h, w] of which the peak lies 3 cells beyond one side, over a floor."""
    h, w = codec.heatmap_size
    x, y = np.arange(w), np.arange(h)[:, None]
    at = ((-3, 30), (w + 2, 30), (20, -3), (20, h + 2))
    return np.stack([np.exp(-((x - i) ** 2 + (y - j) ** 2) / 8) + floor for i, j in at])[:, None]


@pytest.mark.parametrize(
    ("floor", "cells"),
    [
        (0.0, [(-3, 30), (50, 30), (20, -3), (20, 66)]),
        (0.03, [(0, 30), (47, 30), (20, 0), (20, 63)]),  # the foot of a hill over a floor: no hill
    ],
)
def test_a_peak_beyond_the_border_is_not_taken_into_the_map(
    floor: float, cells: list[tuple[int, int]]
) -> None:
    codec = HeatmapCodec((256, 192), (64, 48))
    points, _ = codec.decode(feet(codec, floor))
    found = points[:, 0] / cell_scale(codec.input_size, codec.heatmap_size, codec.alignment)
    np.testing.assert_allclose(found, cells, atol=0.01)


def test_a_single_high_cell_in_a_corner_stays_there() -> None:
    codec = HeatmapCodec((64, 64), (16, 16))
    maps = np.zeros((2, 1, 16, 16), np.float32)
    maps[0, 0, 0, 0] = maps[1, 0, 15, 15] = 1
    points, _ = codec.decode(maps)
    np.testing.assert_allclose(points[:, 0], [(0, 0), (63, 63)])


def test_a_labelled_point_without_a_place_has_an_empty_map() -> None:
    codec = HeatmapCodec((64, 64), (16, 16))
    maps, weights = codec.encode(np.array([[np.nan, 5.0], [np.inf, 5.0]]), np.ones(2))
    assert not maps.any()
    assert not weights.any()
