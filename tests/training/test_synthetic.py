"""Drawn people: their labels are exact, and they read like any other data set."""

from pathlib import Path

import numpy as np
import pytest

from heads.image import read_image
from heads.skeleton import COCO_17
from training.data import read_samples
from training.synthetic import draw_person, write_dataset

BOX = (10.0, 20.0, 80.0, 160.0)


def test_every_keypoint_lies_in_the_box_on_its_own_colour() -> None:
    image = np.zeros((200, 100, 3), np.uint8)
    points = draw_person(image, BOX, seed=1)
    assert (points >= BOX[:2]).all()
    assert (points <= np.add(BOX[:2], BOX[2:])).all()
    # Discs are drawn in order, so the last keypoint is covered by none.
    x, y = points[16].round().astype(int)
    assert tuple(image[y, x]) == COCO_17.colours[16]
    assert all(image[y, x].any() for x, y in points.round().astype(int))


def test_a_seed_draws_the_same_person() -> None:
    images = [np.zeros((200, 100, 3), np.uint8) for _ in range(3)]
    points = [draw_person(i, BOX, seed) for i, seed in zip(images, (7, 7, 8), strict=True)]
    np.testing.assert_array_equal(images[0], images[1])
    np.testing.assert_array_equal(points[0], points[1])
    assert (points[0] != points[2]).any()


def test_people_stand_side_by_side(tmp_path: Path) -> None:
    samples, _ = read_samples(write_dataset(tmp_path, 2, size=(96, 60), people=3), tmp_path)
    assert [sample.path.name for sample in samples] == ["1.png"] * 3 + ["2.png"] * 3
    image = read_image(samples[2].path)
    assert image.shape == (96, 180, 3)
    assert [sample.box_xywh[0] for sample in samples[:3]] == pytest.approx([6, 66, 126])
    for sample in samples[:3]:
        x, y = sample.keypoints[16].round().astype(int)
        assert tuple(image[y, x]) == COCO_17.colours[16]


def test_a_drawn_data_set_is_read_with_the_labels_it_was_drawn_with(tmp_path: Path) -> None:
    samples, skeleton = read_samples(write_dataset(tmp_path, 3, size=(120, 90)), tmp_path)
    assert skeleton == COCO_17
    assert len(samples) == 3
    for number, sample in enumerate(samples, start=1):
        image = read_image(sample.path)
        assert image.shape == (120, 90, 3)
        expected = draw_person(image.copy(), sample.box_xywh, seed=number)
        np.testing.assert_allclose(sample.keypoints, expected, atol=1e-4)
        assert (sample.weights == 1).all()
