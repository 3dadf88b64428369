"""Crops against the official numbers, and the properties that make them exact."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heads.geometry import (
    Alignment,
    Crop,
    cell_scale,
    clip_box,
    flip_heatmaps,
    flip_points,
    inverse,
    padded_box,
    reduced,
    transform,
)
from heads.skeleton import COCO_17
from models.errors import ShapeError

sides = st.floats(1, 3000)
boxes = st.tuples(st.floats(-500, 3000), st.floats(-500, 3000), sides, sides)
alignments = st.sampled_from(["udp", "legacy"])


def test_boxes_widen_as_the_official_code_widens_them(legacy: Any) -> None:
    for case in legacy["legacy"]["box_to_center_scale"]:
        width, height = case["image_size"]
        center, size = padded_box(case["box"], width / height, 1.25)
        np.testing.assert_allclose(center, case["center"], rtol=1e-6)
        np.testing.assert_allclose(np.array(size) / 200, case["scale"], rtol=2e-6)


def test_legacy_crops_are_the_official_matrices(legacy: Any) -> None:
    """The official code works in float32 points; 2e-6 of the largest entry is their rounding."""
    for case in legacy["legacy"]["affine_transform"]:
        width, height = case["output_size"]
        # The official size is in units of 200 pixels; a box of the output's shape gives it back.
        box_width = case["scale"][0] * 200
        box_height = box_width * height / width
        left, top = (
            c - s / 2 for c, s in zip(case["center"], (box_width, box_height), strict=True)
        )
        crop = Crop.around(
            (left, top, box_width, box_height),
            (height, width),
            alignment="legacy",
            padding=1.0,
            rotation_deg=case["rot"],
        )
        matrix = inverse(crop.matrix) if case["inv"] else crop.matrix
        expected = np.array(case["matrix"])
        np.testing.assert_allclose(matrix, expected, atol=2e-6 * np.abs(expected).max())


def test_udp_and_plain_crops_are_those_of_mmpose(legacy: Any) -> None:
    for case in legacy["mmpose"]["warp_matrix"]:
        width, height = case["image_size"]
        kinds: tuple[tuple[Alignment, str, int], ...]
        kinds = (("legacy", "matrix", 1), ("udp", "udp_matrix", -1))
        for alignment, key, sign in kinds:
            # mmpose turns its two kinds of crop in opposite directions; here both turn alike.
            crop = Crop.around(
                case["box"],
                (height, width),
                alignment=alignment,
                rotation_deg=sign * case["rot"],
            )
            np.testing.assert_allclose(crop.matrix, case[key], atol=2e-4)


@given(boxes, alignments, st.floats(-180, 180), st.floats(0.5, 2))
def test_crop_there_and_back_is_the_identity(
    box: tuple[float, float, float, float], alignment: Alignment, rotation: float, padding: float
) -> None:
    crop = Crop.around(box, (256, 192), alignment=alignment, padding=padding, rotation_deg=rotation)
    points = np.array([[0.0, 0.0], [100.5, 20.25], [-30.0, 4000.0]])
    np.testing.assert_allclose(crop.to_image(crop.to_input(points)), points, atol=1e-6)


@given(boxes)
def test_udp_corners_fall_on_corners(box: tuple[float, float, float, float]) -> None:
    """The padded box's corners are the first and the last pixel centre."""
    center, (width, height) = padded_box(box, 192 / 256, 1.25)
    corners = np.array(
        [
            [center[0] - width / 2, center[1] - height / 2],
            [center[0] + width / 2, center[1] + height / 2],
        ]
    )
    crop = Crop.around(box, (256, 192))
    np.testing.assert_allclose(crop.to_input(corners), [[0, 0], [191, 255]], atol=1e-6)


@given(boxes)
def test_a_mirrored_udp_crop_has_mirrored_points(box: tuple[float, float, float, float]) -> None:
    crop = Crop.around(box, (256, 192))
    points = np.array([[10.0, 20.0], [300.0, 5.0]])
    expected = crop.to_input(points)
    expected[:, 0] = 191 - expected[:, 0]
    np.testing.assert_allclose(crop.mirrored().to_input(points), expected, atol=1e-6)


def test_flip_twice_is_the_identity() -> None:
    points = np.random.default_rng(0).uniform(0, 200, (3, 17, 2))
    once = flip_points(points, 211, COCO_17.flip_order)
    assert not np.allclose(once, points)
    np.testing.assert_allclose(flip_points(once, 211, COCO_17.flip_order), points)
    maps = np.random.default_rng(1).random((2, 17, 8, 6), dtype=np.float32)
    twice = flip_heatmaps(flip_heatmaps(maps, COCO_17.flip_order), COCO_17.flip_order)
    np.testing.assert_array_equal(twice, maps)


def test_points_flip_as_the_official_code_flips_them(legacy: Any) -> None:
    case = legacy["legacy"]["fliplr_joints"]
    flipped = flip_points(np.array(case["joints"]), case["width"], COCO_17.flip_order)
    visible = np.array(case["visible"])[list(COCO_17.flip_order)]
    np.testing.assert_array_equal(visible, case["flipped_visible"])
    np.testing.assert_allclose(flipped * visible[:, None], case["flipped"], atol=1e-4)


def test_heatmaps_flip_as_the_official_code_flips_them(legacy: Any, fill: Any) -> None:
    for case in legacy["legacy"]["flip_back"]:
        maps = fill.make_heatmaps(case["heatmaps"]["shape"], case["heatmaps"]["key"]).numpy()
        at = fill.sample_indices(maps.size)
        plain = flip_heatmaps(maps, COCO_17.flip_order)
        shifted = flip_heatmaps(maps, COCO_17.flip_order, "legacy")
        np.testing.assert_allclose(plain.ravel()[at], case["flip_back"], rtol=1e-6)
        np.testing.assert_allclose(shifted.ravel()[at], case["flip_back_shifted"], rtol=1e-6)


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_letterbox_shows_the_whole_image(height: int, width: int) -> None:
    crop = Crop.letterbox((height, width), 320, multiple=32, max_long=800)
    assert all(side % 32 == 0 and 32 <= side <= 800 for side in crop.input_size)
    edges = np.array([[-0.5, -0.5], [width - 0.5, height - 0.5]])  # outer edges of the image
    low, high = crop.to_input(edges)
    np.testing.assert_allclose(low, -0.5, atol=1e-6)
    assert (high <= np.array(crop.input_size[::-1]) - 0.5 + 1e-6).all()


@given(st.integers(2, 9), boxes)
def test_a_reduced_image_is_seen_at_the_same_place(
    factor: int, box: tuple[float, float, float, float]
) -> None:
    crop = Crop.around(box, (256, 192))
    # Four by four blocks: the centre of block 0 is the middle of pixels 0..factor-1.
    blocks = np.array([[0.0, 0.0], [3.0, 2.0]])
    pixels = blocks * factor + (factor - 1) / 2
    np.testing.assert_allclose(
        transform(blocks, reduced(crop.matrix, factor)), crop.to_input(pixels), atol=1e-6
    )


def test_cells_lie_on_pixels() -> None:
    np.testing.assert_allclose(cell_scale((256, 192), (64, 48), "udp"), [191 / 47, 255 / 63])
    np.testing.assert_allclose(cell_scale((256, 192), (64, 48), "legacy"), [4, 4])


def test_a_box_is_cut_to_the_image() -> None:
    assert clip_box((-10, 5, 30, 20), (100, 15)) == (0, 5, 15, 20)
    assert clip_box((200, 5, 30, 20), (100, 15))[2] == 0


def test_points_of_another_shape_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"\[\.\.\., 2\].*\(4, 3\)"):
        transform(np.zeros((4, 3)), np.eye(2, 3))


def test_a_box_without_width_and_height_has_no_crop() -> None:
    with pytest.raises(ShapeError, match="a box without width and height"):
        Crop.around((5, 5, 0, 0), (64, 48))
    assert Crop.around((5, 5, 0, 10), (64, 48)).scale > 0
