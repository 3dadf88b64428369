"""Random views: without chance they are the views of inference, and labels stay on their pixels."""

import numpy as np
import pytest

from heads.geometry import Alignment, Crop
from heads.image import Image, warp
from heads.skeleton import COCO_17
from training.augment import MIN_WHOLE_BODY, Augmentation
from training.synthetic import draw_person

SIZE = (128, 96)
BOX = (20.0, 10.0, 60.0, 110.0)
STILL = {
    "scale": 0.0,
    "rotation_deg": 0.0,
    "shift": 0.0,
    "flip": 0.0,
    "half_body": 0.0,
    "colour": 0.0,
}


def photograph() -> tuple[Image, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    image = np.full((130, 100, 3), 60, np.uint8)
    return image, draw_person(image, BOX, seed=4)


def views(alignment: Alignment = "udp", **changes: float) -> Augmentation:
    return Augmentation(COCO_17, SIZE, alignment, **{**STILL, **changes})


ONES = np.ones(17, np.float32)


@pytest.mark.parametrize("alignment", ["udp", "legacy"])
def test_without_chance_a_view_is_that_of_inference(alignment: Alignment) -> None:
    image, points = photograph()
    rng = np.random.default_rng(0)
    view, moved, _ = views(alignment).apply(image, BOX, points, ONES, rng)
    crop = Crop.around(BOX, SIZE, alignment=alignment)
    np.testing.assert_array_equal(view, warp(image, crop))
    np.testing.assert_allclose(moved, crop.to_input(points), atol=1e-4)


@pytest.mark.parametrize("alignment", ["udp", "legacy"])
def test_a_large_photograph_is_shrunk_as_it_is_when_it_is_served(alignment: Alignment) -> None:
    image = np.random.default_rng(0).integers(0, 256, (600, 500, 3), np.uint8)
    box, points = (50.0, 40.0, 400.0, 520.0), np.full((17, 2), 200, np.float32)
    view, _, _ = views(alignment).apply(image, box, points, ONES, np.random.default_rng(0))
    crop = Crop.around(box, SIZE, alignment=alignment)
    np.testing.assert_array_equal(view, warp(image, crop, antialias=alignment == "udp"))


def test_a_mirrored_view_has_left_and_right_changed() -> None:
    image, points = photograph()
    weights = ONES.copy()
    weights[5] = 0.25  # left shoulder
    rng = np.random.default_rng(0)
    view, moved, kept = views(flip=1.0).apply(image, BOX, points, weights, rng)
    plain, before, _ = views().apply(image, BOX, points, weights, rng)
    # The warp rounds to a 32nd of a pixel; where edges are hard that shows as some grey levels.
    assert np.abs(view.astype(int) - plain[:, ::-1]).mean() < 1
    np.testing.assert_allclose(moved[6], [SIZE[1] - 1 - before[5][0], before[5][1]], atol=1e-3)
    assert (kept[6], kept[5]) == (0.25, 1)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("turned", [{}, {"upright": 1.0, "rotation_deg": 20.0}])
@pytest.mark.parametrize("seed", range(4))
def test_every_keypoint_keeps_its_colour_under_it(
    seed: int, turned: dict[str, float], mirrored: bool
) -> None:
    """Each keypoint is a disc of its own colour; whatever the view, that colour is found there."""
    image = np.zeros((200, 160, 3), np.uint8)
    points = np.zeros((17, 2), np.float32)
    colours = np.random.default_rng(1).integers(60, 256, (17, 3))
    for k in range(17):
        x, y = 40 + 20 * (k % 5), 40 + 30 * (k // 5)
        points[k] = (x, y)
        image[y - 4 : y + 5, x - 4 : x + 5] = colours[k]
    changes = {"flip": float(mirrored), "half_body": 0.5, "colour": 0.0, **turned}
    augmentation = Augmentation(COCO_17, SIZE, "udp", **changes)
    rng = np.random.default_rng(seed)
    box = (30.0, 30.0, 100.0, 120.0)
    view, moved, _ = augmentation.apply(image, box, points, ONES, rng)
    inside = ((moved > 1) & (moved < np.array(SIZE[::-1]) - 2)).all(axis=1)
    x, y = moved.round().astype(int)[inside].T
    assert inside.sum() >= 4
    # In the mirror the disc of the right partner stands where the label says left.
    away = [
        np.abs(view[y, x].astype(int) - colours[list(order)][inside]).max()
        for order in (range(17), COCO_17.flip_order)
    ]
    assert sorted(away)[0] <= 2 < 20 < sorted(away)[1]
    assert (away[1] <= 2) == mirrored


def test_half_a_body_fills_the_view() -> None:
    image, points = photograph()
    whole = Crop.around(BOX, SIZE).scale
    zoomed = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        _, moved, _ = views(half_body=1.0).apply(image, BOX, points, ONES, rng)
        scale = np.linalg.norm(moved[11] - moved[12]) / np.linalg.norm(points[11] - points[12])
        upper, lower = moved[:11], moved[11:]
        inside = [((h > 0) & (h < SIZE[::-1])).all() for h in (upper, lower)]
        assert any(inside)
        zoomed += bool(scale > 1.05 * whole)
    assert zoomed == 20


def test_too_few_labels_give_no_half_body() -> None:
    image, points = photograph()
    weights = np.zeros(17, np.float32)
    weights[: MIN_WHOLE_BODY - 1] = 1
    rng = np.random.default_rng(0)
    _, moved, _ = views(half_body=1.0).apply(image, BOX, points, weights, rng)
    np.testing.assert_allclose(moved, Crop.around(BOX, SIZE).to_input(points), atol=1e-4)


@pytest.mark.parametrize("kind", ["colour", "blur", "dropout"])
def test_pixels_change_and_labels_do_not(kind: str) -> None:
    image, points = photograph()
    changed = views("udp", **{kind: 0.9 if kind == "colour" else 1.0})
    plain, before, _ = views().apply(image, BOX, points, ONES, np.random.default_rng(5))
    view, after, _ = changed.apply(image, BOX, points, ONES, np.random.default_rng(5))
    np.testing.assert_array_equal(after, before)
    assert view.shape == plain.shape
    assert view.dtype == np.uint8
    assert (view != plain).any()


def test_dropout_greys_at_most_a_sixth_of_the_view() -> None:
    image, points = photograph()
    for seed in range(30):
        plain = views().apply(image, BOX, points, ONES, np.random.default_rng(seed))[0]
        view = views(dropout=1.0).apply(image, BOX, points, ONES, np.random.default_rng(seed))[0]
        changed = (view != plain).any(axis=2)
        assert 0 < changed.mean() < 0.4 * 0.4 + 0.02
        assert (view[changed] == 128).all()


def lying() -> tuple[Image, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    """The photograph of BOX turned by a quarter to the right: the head is at the right."""
    image, points = photograph()
    height = image.shape[0]
    turned = np.stack([height - 1 - points[:, 1], points[:, 0]], axis=1)
    return np.ascontiguousarray(np.rot90(image, -1)), turned.astype(np.float32)


LYING_BOX = (130 - 1 - 10.0 - 110.0, 20.0, 110.0, 60.0)


def test_who_lies_is_stood_on_their_feet() -> None:
    image, points = lying()
    rng = np.random.default_rng(0)
    _, moved, _ = views(upright=1.0).apply(image, LYING_BOX, points, ONES, rng)
    shoulders, hips = moved[[5, 6]].mean(axis=0), moved[[11, 12]].mean(axis=0)
    assert abs(shoulders[0] - hips[0]) < 1e-3
    assert shoulders[1] < hips[1]
    assert ((moved > 0) & (moved < SIZE[::-1])).all()
    # All of the view that the body needs: 1.2 for hands and feet, 1.25 for the crop.
    filled = (moved.max(axis=0) - moved.min(axis=0)) * 1.2 * 1.25 / np.array(SIZE[::-1])
    assert filled.max() == pytest.approx(1, abs=0.02)


def test_who_leans_less_than_views_are_turned_is_left() -> None:
    image, points = photograph()
    changed = views(upright=1.0, rotation_deg=60.0)
    rng = np.random.default_rng(1)
    _, moved, _ = changed.apply(image, BOX, points, ONES, rng)
    plain = views(rotation_deg=60.0).apply(image, BOX, points, ONES, np.random.default_rng(1))[1]
    np.testing.assert_array_equal(moved, plain)


@pytest.mark.parametrize("unlabelled", [[5, 6], [11, 12], range(17)])
def test_nobody_is_turned_without_a_trunk(unlabelled: list[int]) -> None:
    image, points = lying()
    weights = ONES.copy()
    weights[list(unlabelled)] = 0
    rng = np.random.default_rng(0)
    view, moved, _ = views(upright=1.0).apply(image, LYING_BOX, points, weights, rng)
    crop = Crop.around(LYING_BOX, SIZE)
    np.testing.assert_allclose(moved, crop.to_input(points), atol=1e-4)
    np.testing.assert_array_equal(view, warp(image, crop))


def test_how_often_somebody_is_stood_up() -> None:
    image, points = lying()
    stood = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        _, moved, _ = views(upright=0.75).apply(image, LYING_BOX, points, ONES, rng)
        stood += bool(abs(moved[5, 0] - moved[11, 0]) < abs(moved[5, 1] - moved[11, 1]))
    assert 130 <= stood <= 170


def test_where_one_half_has_too_few_labels_the_other_is_shown() -> None:
    image, points = photograph()
    weights = ONES.copy()
    weights[11:15] = 0  # two are left of the legs
    for seed in range(10):
        rng = np.random.default_rng(seed)
        _, moved, _ = views(half_body=1.0).apply(image, BOX, points, weights, rng)
        assert ((moved[:11] > 0) & (moved[:11] < SIZE[::-1])).all()
        scale = np.linalg.norm(moved[5] - moved[6]) / np.linalg.norm(points[5] - points[6])
        assert scale > 1.05 * Crop.around(BOX, SIZE).scale


def test_six_views_in_ten_are_turned() -> None:
    image, points = photograph()
    plain = views().apply(image, BOX, points, ONES, np.random.default_rng(0))[1]
    turned = 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        moved = views(rotation_deg=40.0).apply(image, BOX, points, ONES, rng)[1]
        turned += bool(np.abs(moved - plain).max() > 0.01)
    assert 200 <= turned <= 280


def test_half_a_body_has_half_its_size_round_it() -> None:
    """1.5 times its keypoints' rectangle fills the view, or one of its sides."""
    image, points = photograph()
    for seed in range(10):
        rng = np.random.default_rng(seed)
        moved = views(half_body=1.0).apply(image, BOX, points, ONES, rng)[1]
        shares = [
            (half.max(axis=0) - half.min(axis=0)) / SIZE[::-1] for half in (moved[:11], moved[11:])
        ]
        assert min(abs(share.max() - 1 / 1.5) for share in shares) < 0.02
