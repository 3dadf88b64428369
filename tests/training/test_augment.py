"""Random views: labels stay on their pixels, and nothing random is left when all is off."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from heads.geometry import Crop
from heads.image import warp
from heads.skeleton import COCO_17
from training.augment import Augmentation

SIZE = (128, 96)
BOX = (40.0, 30.0, 90.0, 150.0)
FloatArray = npt.NDArray[np.float32]


def still(**changes: float) -> Augmentation:
    """An augmentation that does nothing but what is named."""
    still: dict[str, Any] = dict.fromkeys(
        ("scale", "rotation_deg", "shift", "flip", "half_body", "colour"), 0.0
    )
    return Augmentation(COCO_17, SIZE, **(still | changes))


def noise() -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (220, 180, 3), np.uint8)


def person(seed: int = 0) -> FloatArray:
    low, size = np.array(BOX[:2]), np.array(BOX[2:])
    return (low + size * np.random.default_rng(seed).random((17, 2))).astype(np.float32)


def everything() -> FloatArray:
    return np.ones(17, np.float32)


def dot(point: FloatArray) -> npt.NDArray[np.uint8]:
    """A soft white spot on black, its middle exactly on the point."""
    y, x = np.mgrid[:220, :180]
    spot = 255 * np.exp(-((x - point[0]) ** 2 + (y - point[1]) ** 2) / (2 * 3.0**2))
    return np.repeat(spot.round().astype(np.uint8)[..., None], 3, axis=2)


@pytest.mark.parametrize("mirror", [0.0, 1.0])
@pytest.mark.parametrize("keypoint", [0, 5, 10, 16])
def test_each_keypoint_moves_with_its_pixels(keypoint: int, mirror: float) -> None:
    """A spot on one keypoint, scaled, turned, moved and mirrored, is found to a third of a pixel.

    Mirrored, the spot of a left wrist is labelled as the right one's.
    """
    views = still(scale=0.3, rotation_deg=40.0, shift=0.05, flip=mirror)
    named = COCO_17.flip_order[keypoint] if mirror else keypoint
    seen = 0
    for seed in range(8):
        keypoints = person(seed)
        rng = np.random.default_rng(seed)
        view, points, _ = views.apply(dot(keypoints[keypoint]), BOX, keypoints, everything(), rng)
        # A spot that the border cuts has its middle elsewhere.
        inside = (points[named] > 9) & (points[named] < np.array(SIZE[::-1]) - 10)
        if inside.all():
            seen += 1
            spot = view[..., 0].astype(np.float64)
            y, x = (np.indices(SIZE) * spot).sum(axis=(1, 2)) / spot.sum()
            np.testing.assert_allclose(points[named], (x, y), atol=1 / 3)
    assert seen >= 3


def test_weights_change_sides_with_their_keypoints() -> None:
    weights = np.arange(17, dtype=np.float32)
    args = (noise(), BOX, person(), weights, np.random.default_rng(0))
    np.testing.assert_array_equal(still(flip=1.0).apply(*args)[2], weights[[*COCO_17.flip_order]])
    np.testing.assert_array_equal(still().apply(*args)[2], weights)


def test_with_all_off_a_view_is_the_crop_of_inference() -> None:
    image, keypoints, crop = noise(), person(), Crop.around(BOX, SIZE)
    rng = np.random.default_rng(0)
    view, points, _ = still().apply(image, BOX, keypoints, everything(), rng)
    np.testing.assert_array_equal(view, warp(image, crop))
    np.testing.assert_allclose(points, crop.to_input(keypoints), atol=1e-4)


def test_the_same_random_numbers_give_the_same_view() -> None:
    views = Augmentation(COCO_17, SIZE)
    first, second, third = (
        views.apply(noise(), BOX, person(), everything(), np.random.default_rng(seed))
        for seed in (3, 3, 4)
    )
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first[0], third[0])


def test_inputs_are_left_as_they_were() -> None:
    image, keypoints, weights = noise(), person(), everything()
    before = image.copy(), keypoints.copy(), weights.copy()
    for seed in range(6):
        Augmentation(COCO_17, SIZE).apply(
            image, BOX, keypoints, weights, np.random.default_rng(seed)
        )
    for array, was in zip((image, keypoints, weights), before, strict=True):
        np.testing.assert_array_equal(array, was)


def test_scale_and_rotation_stay_within_their_bounds() -> None:
    views, keypoints = still(scale=0.3, rotation_deg=40.0), person()
    plain = Crop.around(BOX, SIZE).to_input(keypoints)
    span = plain[1] - plain[0]
    angles, zooms = [], []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        _, points, _ = views.apply(noise(), BOX, keypoints, everything(), rng)
        # Both axes have nearly one scale, so the angle between two keypoints turns with the view.
        now = points[1] - points[0]
        zooms.append(np.linalg.norm(span) / np.linalg.norm(now))
        angles.append(np.degrees(np.arctan2(*now) - np.arctan2(*span)))
    turned = np.abs((np.array(angles) + 180) % 360 - 180)
    assert 30 < turned.max() < 41
    assert 0.5 < (turned > 0.5).mean() < 0.7
    assert 0.69 < min(zooms) < 0.8
    assert 1.2 < max(zooms) < 1.31


def test_half_a_body_shows_one_half_larger() -> None:
    keypoints = person()
    keypoints[:11, 1], keypoints[11:, 1] = 50.0, 150.0  # heads and arms above, legs below
    middles = set()
    for seed in range(12):
        rng = np.random.default_rng(seed)
        _, points, _ = still(half_body=1.0).apply(noise(), BOX, keypoints, everything(), rng)
        upper, lower = points[:11, 1].mean(), points[11:, 1].mean()
        middles.add(abs(upper - 64) < abs(lower - 64))
        shown = points[:11] if abs(upper - 64) < abs(lower - 64) else points[11:]
        assert (shown >= 0).all()
        assert (shown < SIZE[::-1]).all()
    assert middles == {True, False}


def test_half_a_body_needs_labels_enough() -> None:
    weights = np.zeros(17, np.float32)
    weights[[5, 12]] = 1
    args = (noise(), BOX, person(), weights)
    half = still(half_body=1.0).apply(*args, np.random.default_rng(0))
    whole = still().apply(*args, np.random.default_rng(0))
    np.testing.assert_array_equal(half[1], whole[1])


def test_colours_vary_and_labels_do_not() -> None:
    args = (noise(), BOX, person(), everything())
    plain, points, _ = still().apply(*args, np.random.default_rng(1))
    view, same, _ = still(colour=0.2).apply(*args, np.random.default_rng(1))
    assert view.dtype == np.uint8
    np.testing.assert_array_equal(points, same)
    change = np.abs(view.astype(int) - plain.astype(int)).mean(axis=(0, 1))
    assert (change > 0).all()
    assert (change < 80).all()
