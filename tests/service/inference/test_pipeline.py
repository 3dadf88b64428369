"""Image to people with the networks that ship: properties that no colour or pixel slip survives."""

import threading
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pytest

from heads.checkpoint import load_network
from heads.geometry import Crop
from heads.image import decode_image, encode_image
from heads.person import Box, Person
from heads.photo import Photo
from heads.suppression import oks
from heads.zoo import locate
from models.errors import ShapeError
from service.errors import InvalidParameter
from service.inference.answers import PoseOptions
from service.inference.engine import serve_network
from service.inference.estimator import load
from service.inference.job import Job
from service.inference.loading import Loader, choose
from service.inference.pipeline import PeopleNetwork, Pipeline, PoseNetwork
from tests.conftest import ROOT

TURN = threading.Lock()

# Three people, left to right: a woman walking, a man standing, a man walking; from COCO's labels.
STREET_BOXES = [
    (9.79, 167.06, 121.94, 226.45),
    (326.28, 174.56, 71.24, 197.25),
    (510.44, 171.27, 123.66, 215.76),
]


@pytest.fixture(scope="module")
def networks() -> Iterator[dict[str, PeopleNetwork | PoseNetwork]]:
    made: dict[str, PeopleNetwork | PoseNetwork] = {}
    loader = Loader(choose("torch"))
    for name in ("movenet_multipose", "movenet_thunder", "hrnet_w18_small"):
        network = load_network(locate(name))
        served = serve_network(loader.module(network), TURN)
        assert isinstance(served, PeopleNetwork | PoseNetwork)
        made[name] = served
    yield made
    for each in made.values():
        each.batcher.close()


@pytest.fixture(scope="module")
def top_down(networks: Any) -> Pipeline:
    return Pipeline(networks["movenet_thunder"], networks["movenet_multipose"])


def likeness(a: Person, b: Person) -> float:
    """OKS of two answers, 1 where they agree."""
    area = a.box_xywh[2] * a.box_xywh[3]
    return float(oks(np.stack([a.keypoints, b.keypoints]), np.array([area, area]))[0, 1])


def points(found: Any) -> Any:
    return np.stack([p.keypoints for p in found.people])


def best_three(pipeline: Pipeline, image: Any) -> list[Person]:
    found = pipeline.people(image, PoseOptions(max_people=3), Job())
    return sorted(found.people, key=lambda p: p.box_xywh[0])


def test_the_three_people_on_the_street_are_found(top_down: Pipeline, street: Any) -> None:
    people = best_three(top_down, street)
    assert len(people) == 3
    for person, (left, top, width, height) in zip(people, STREET_BOXES, strict=True):
        inside = (
            (person.keypoints[:, 0] > left - 15)
            & (person.keypoints[:, 0] < left + width + 15)
            & (person.keypoints[:, 1] > top - 15)
            & (person.keypoints[:, 1] < top + height + 15)
        )
        assert inside.all()
        nose, left_ankle = person.keypoints[0], person.keypoints[15]
        assert left_ankle[1] - nose[1] > 0.6 * height


def test_the_clients_box_finds_the_person_that_the_detector_finds(
    top_down: Pipeline, street: Any
) -> None:
    detected = best_three(top_down, street)
    found = top_down.people(street, PoseOptions(tuple(STREET_BOXES)), Job())
    assert found.boxes_from == "client"
    assert [p.box_score for p in found.people] == [None] * 3
    for theirs, ours in zip(found.people, detected, strict=True):
        assert likeness(theirs, ours) > 0.96


def test_a_box_answered_alone_is_answered_the_same_in_a_crowd(
    top_down: Pipeline, street: Any
) -> None:
    together = points(top_down.people(street, PoseOptions(tuple(STREET_BOXES)), Job()))
    alone = [points(top_down.people(street, PoseOptions((box,)), Job()))[0] for box in STREET_BOXES]
    np.testing.assert_allclose(together, np.stack(alone), atol=1e-3)


def test_a_mirrored_photograph_has_mirrored_people(top_down: Pipeline, street: Any) -> None:
    mirrored = np.ascontiguousarray(street[:, ::-1])
    original = best_three(top_down, street)
    order = list(top_down.spec.skeleton.flip_order)
    for person, twin in zip(original, reversed(best_three(top_down, mirrored)), strict=True):
        back = twin.keypoints[order] * [-1, 1, 1] + [street.shape[1] - 1, 0, 0]
        unmirrored = Person(back.astype(np.float32), twin.score, person.box_xywh)
        # The networks are not quite symmetric; swapped sides would be 0.5 alike.
        assert likeness(person, unmirrored) > 0.95


def test_swapped_colours_change_the_answer(top_down: Pipeline, street: Any) -> None:
    options = PoseOptions(tuple(STREET_BOXES))
    right = points(top_down.people(street, options, Job()))
    swapped = np.ascontiguousarray(street[..., ::-1])
    wrong = points(top_down.people(swapped, options, Job()))
    assert np.abs(right - wrong)[..., 2].max() > 0.05


@pytest.mark.parametrize("name", ["movenet_thunder", "hrnet_w18_small"])
def test_flip_test_agrees_with_a_single_look(networks: Any, street: Any, name: str) -> None:
    """Averaging with the mirrored crop moves sure keypoints by little; swapped sides would show."""
    pipeline = Pipeline(networks[name], None)
    once = points(pipeline.people(street, PoseOptions(tuple(STREET_BOXES)), Job()))
    twice = points(pipeline.people(street, PoseOptions(tuple(STREET_BOXES), flip_test=True), Job()))
    sure = (once[..., 2] > 0.4) & (twice[..., 2] > 0.4)
    assert sure.sum() > 20
    moved = np.linalg.norm(once[..., :2] - twice[..., :2], axis=-1)[sure]
    assert np.median(moved) < 4
    assert moved.max() > 0.01


def test_a_shifted_photograph_has_shifted_people(top_down: Pipeline, street: Any) -> None:
    """The crop follows the box, so moving both by whole pixels moves the answer by just as much."""
    height, width = street.shape[:2]
    canvas = np.zeros((height + 37, width + 51, 3), np.uint8)
    canvas[37:, 51:] = street
    shifted_box = (STREET_BOXES[1][0] + 51, STREET_BOXES[1][1] + 37, *STREET_BOXES[1][2:])
    here = points(top_down.people(street, PoseOptions((STREET_BOXES[1],)), Job()))
    there = points(top_down.people(canvas, PoseOptions((shifted_box,)), Job()))
    np.testing.assert_allclose(there - here, np.broadcast_to([51, 37, 0], here.shape), atol=0.01)


def test_one_pass_says_that_it_found_the_boxes_itself(networks: Any, street: Any) -> None:
    pipeline = Pipeline(networks["movenet_multipose"])
    found = pipeline.people(street, PoseOptions(), Job())
    assert found.boxes_from == "detector:movenet_multipose"
    assert len(found.people) >= 3
    scores = [p.score for p in found.people]
    assert scores == sorted(scores, reverse=True)
    assert all(score >= pipeline.spec.threshold for score in scores)


def test_without_a_detector_the_whole_image_is_one_box(networks: Any, street: Any) -> None:
    found = Pipeline(networks["movenet_thunder"]).people(street, PoseOptions(threshold=0), Job())
    assert found.boxes_from == "image"
    assert [p.box_xywh for p in found.people] == [(0, 0, street.shape[1], street.shape[0])]


def test_an_empty_photograph_has_nobody(top_down: Pipeline) -> None:
    for value in (0, 127, 255):
        found = top_down.people(np.full((480, 640, 3), value, np.uint8), PoseOptions(), Job())
        assert found.people == ()


@pytest.mark.parametrize("size", [(1, 1), (1, 2000), (2000, 1), (33, 7)])
def test_odd_sizes_are_answered(top_down: Pipeline, size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    found = top_down.people(image, PoseOptions(threshold=0.0), Job())
    assert all(np.isfinite(p.keypoints).all() for p in found.people)


def test_max_people_keeps_the_best(top_down: Pipeline, street: Any) -> None:
    everybody = top_down.people(street, PoseOptions(threshold=0.0), Job()).people
    one = top_down.people(street, PoseOptions(threshold=0.0, max_people=1), Job()).people
    assert len(everybody) > 1
    np.testing.assert_array_equal(one[0].keypoints, everybody[0].keypoints)


def test_what_a_network_cannot_do_is_refused_in_words(networks: Any, street: Any) -> None:
    one_pass = Pipeline(networks["movenet_multipose"])
    with pytest.raises(InvalidParameter, match="boxes need a pose network") as caught:
        one_pass.people(street, PoseOptions(((0, 0, 10, 10),)), Job())
    assert caught.value.parameter == "boxes"
    with pytest.raises(InvalidParameter, match="flip_test needs a pose network"):
        one_pass.people(street, PoseOptions(flip_test=True), Job())
    top_down = Pipeline(networks["movenet_thunder"])
    with pytest.raises(InvalidParameter, match="no more than a pixel inside the image of 640"):
        top_down.people(street, PoseOptions(((700, 10, 50, 50),)), Job())
    with pytest.raises(ShapeError, match="RGB uint8"):
        top_down.people(street[..., 0], PoseOptions(), Job())


PHOTOGRAPHED = pytest.mark.parametrize(
    ("photo", "box"),
    [
        ("street.jpg", (60.0, 180.0, 100.0, 226.0)),
        ("keeper.jpg", (180.0, 40.0, 260.0, 330.0)),
        ("astronaut.jpg", (60.0, 20.0, 380.0, 440.0)),
    ],
)


def enlarged(photo: str, box: Box) -> tuple[bytes, Box]:
    """A photograph of docs/ at twice its size, large enough to be decoded small, and the box."""
    image = decode_image((ROOT / "docs" / photo).read_bytes())
    size = (2 * image.shape[1], 2 * image.shape[0])
    large = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
    left, top, width, height = (2 * side for side in box)
    return encode_image(np.asarray(large, np.uint8), quality=90), (left, top, width, height)


@PHOTOGRAPHED
def test_a_jpeg_decoded_small_changes_crops_less_than_a_shift_by_half_a_pixel(
    photo: str, box: Box
) -> None:
    """Of the crop, so whatever a network has learned: half of what such a shift changes."""
    data, box = enlarged(photo, box)
    crop = load("hrnet_w18_small").spec.crop(box)
    moved = Crop(crop.matrix + np.array([0, 0, 0.5]), crop.input_size)
    (small,) = Photo(data).views([crop])
    whole, beside = Photo.of(decode_image(data)).views([crop, moved])
    assert (small != whole).any()
    by_decoding, by_moving = (
        np.square(view.astype(np.float32) - whole).mean() ** 0.5 for view in (small, beside)
    )
    assert by_decoding < 0.5 * by_moving


@PHOTOGRAPHED
def test_a_jpeg_decoded_small_gives_the_keypoints_of_all_its_pixels(photo: str, box: Box) -> None:
    data, box = enlarged(photo, box)
    estimator = load("default")
    (small,) = estimator.predict(Photo(data), [box])
    (whole,) = estimator.predict(decode_image(data), [box])
    assert small.box_xywh == whole.box_xywh
    sure = (small.keypoints[:, 2] > 0.3) & (whole.keypoints[:, 2] > 0.3)
    moved = np.linalg.norm(small.keypoints[sure, :2] - whole.keypoints[sure, :2], axis=1)
    assert sure.sum() >= 5
    cell = 4 / estimator.spec.crop(box).scale
    assert moved.max() < cell
