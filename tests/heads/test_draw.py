"""People drawn into their picture."""

import numpy as np
import pytest

from heads.draw import draw_boxes, draw_people
from heads.person import Person
from heads.skeleton import COCO_17, Skeleton
from tests.service.fakes import standing_person

GREY = np.full((400, 600, 3), 128, np.uint8)
BOX = (200.0, 40.0, 160.0, 320.0)


def pixel_at(image: np.ndarray, x: float, y: float) -> tuple[int, ...]:
    return tuple(int(v) for v in image[round(y), round(x)])


def test_keypoints_have_their_colours_where_they_are() -> None:
    person = standing_person(BOX, 0.9)
    drawn = draw_people(GREY, [person], COCO_17)
    for (x, y, _), colour in zip(person.keypoints, COCO_17.colours, strict=True):
        assert np.abs(np.array(pixel_at(drawn, x, y)) - colour).max() < 12


def test_limbs_run_between_their_keypoints() -> None:
    person = standing_person(BOX, 0.9)
    drawn = draw_people(GREY, [person], COCO_17)
    knee, ankle = person.keypoints[13, :2], person.keypoints[15, :2]
    middle = (knee + ankle) / 2
    assert np.abs(np.array(pixel_at(drawn, *middle)) - COCO_17.colours[15]).max() < 12


def test_the_image_itself_is_left_alone() -> None:
    before = GREY.copy()
    draw_people(GREY, [standing_person(BOX, 0.9)], COCO_17)
    draw_boxes(GREY, [BOX], [0.5])
    assert (before == GREY).all()


def test_unsure_keypoints_and_their_limbs_are_left_out() -> None:
    person = standing_person(BOX, 0.9)
    person.keypoints[15, 2] = 0.1
    drawn = draw_people(GREY, [person], COCO_17)
    knee, ankle = person.keypoints[13, :2], person.keypoints[15, :2]
    assert pixel_at(drawn, *ankle) == (128, 128, 128)
    assert pixel_at(drawn, *(knee * 0.3 + ankle * 0.7)) == (128, 128, 128)


def test_widths_follow_the_size_of_the_person() -> None:
    def drawn_pixels(box: tuple[float, float, float, float]) -> int:
        image = np.full((1200, 1600, 3), 128, np.uint8)
        return int(
            (draw_people(image, [standing_person(box, 0.9)], COCO_17) != image).any(-1).sum()
        )

    small, large = drawn_pixels((100, 100, 100, 200)), drawn_pixels((100, 100, 500, 1000))
    # Lines of one width would give 5 times the pixels; lines that grow alike give 25 times.
    assert 8 < large / small < 25


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e9, 1e9])
def test_keypoints_that_are_nowhere_break_nothing(value: float) -> None:
    person = standing_person(BOX, 0.9)
    person.keypoints[3, 0] = value
    far = Person(person.keypoints, 0.5, (-1e7, -1e7, 1e8, 1e8), 0.5)
    drawn = draw_people(GREY, [person, far], COCO_17)
    assert drawn.shape == GREY.shape
    assert (drawn != GREY).any()


def test_any_picture_and_any_skeleton_can_be_drawn_on() -> None:
    tiny = np.zeros((1, 1, 3), np.uint8)
    assert draw_people(tiny, [standing_person((0, 0, 1, 1), None)], COCO_17).shape == (1, 1, 3)
    assert (draw_people(tiny, [], COCO_17) == tiny).all()
    hand = Skeleton(name="two", keypoints=("a", "b"))  # no edges, colours of its own
    points = np.array([[50, 50, 1], [90, 90, 1]], np.float32)
    drawn = draw_people(GREY, [Person(points, 1.0, (40, 40, 60, 60))], hand)
    assert np.abs(np.array(pixel_at(drawn, 50, 50)) - hand.colours[0]).max() < 12


def test_boxes_are_drawn_at_their_corners() -> None:
    drawn = draw_boxes(GREY, [BOX], [0.5])
    left, top, width, height = BOX
    assert max(pixel_at(drawn, left + width, top + height)) > 200
    assert pixel_at(drawn, left + width / 2, top + height) == (128, 128, 128)
