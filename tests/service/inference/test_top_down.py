"""From boxes to people: what is cut, what is run and what is kept, with maps that are known."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from heads.geometry import Alignment
from heads.image import encode_image, warp
from heads.onnx_file import OUTPUT
from heads.person import Box, ScoredBox
from heads.photo import Photo
from heads.spec import BackboneSpec, CenterHead, HeadSpec, NetworkSpec, SimpleHead
from service.inference.answers import Image, PoseOptions
from service.inference.batcher import Ran
from service.inference.job import Job
from service.inference.pipeline import Pipeline, PoseNetwork, Timing
from service.inference.room import Room

Maps = dict[str, npt.NDArray[np.float32]]

HEIGHT, WIDTH = 240, 320
BOX: Box = (40.0, 20.0, 90.0, 200.0)
OTHER: Box = (200.0, 30.0, 80.0, 180.0)


def spec_of(head: HeadSpec, alignment: Alignment = "udp") -> NetworkSpec:
    backbone = BackboneSpec(name="mobilenet_v2")
    return NetworkSpec(
        name="x",
        task="pose",
        backbone=backbone,
        head=head,
        input_size=(128, 96),
        alignment=alignment,
    )


SPEC = spec_of(SimpleHead())


class Told:
    """In the place of a batcher: remembers the crops, and answers with the maps it is told."""

    def __init__(self, maps_of: Callable[[int], Maps]) -> None:
        self.maps_of = maps_of
        self.crops: list[Image] = []

    def run(self, crops: Sequence[Image], _: Job) -> list[Ran]:
        """Maps by the place of each crop."""
        self.crops += crops
        return [Ran(self.maps_of(i), queue_ms=1.0, network_ms=2.0) for i in range(len(crops))]


class Finder:
    """In the place of a detector: finds the boxes it is told."""

    spec = spec_of(CenterHead()).model_copy(update={"name": "finder"})

    def __init__(self, *found: ScoredBox) -> None:
        self.found = list(found)

    def boxes(self, _photo: Photo, _job: Job) -> tuple[list[ScoredBox], None]:
        return self.found, None


def standing(height: float = 0.8) -> Callable[[int], Maps]:
    """Peaks of that height down the middle of every crop."""
    points = np.stack([np.full(17, 47.5), np.linspace(20, 107, 17)], axis=1)
    heatmaps, _ = SPEC.heatmap_codec().encode(points, np.ones(17))
    return lambda _: {OUTPUT: height * heatmaps}


def pipeline_of(told: Any, finder: Any = None, spec: NetworkSpec = SPEC) -> Pipeline:
    return Pipeline(PoseNetwork(spec, told), finder)


def noise() -> Image:
    return np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def keypoints(pipeline: Pipeline, **options: Any) -> Any:
    found = pipeline.people(noise(), PoseOptions((BOX, OTHER), **options), Job())
    return np.stack([person.keypoints for person in found.people])


@pytest.mark.parametrize("alignment", ["udp", "legacy"])
def test_flip_test_is_the_mean_of_the_maps_of_a_crop_and_of_its_mirror_image(
    alignment: Alignment,
) -> None:
    spec = spec_of(SimpleHead(), alignment)
    maps = np.random.default_rng(0).random((4, 17, 32, 24), dtype=np.float32)
    told = Told(lambda i: {OUTPUT: maps[i]})
    once = keypoints(pipeline_of(told, spec=spec))
    told.crops.clear()
    twice = keypoints(pipeline_of(told, spec=spec), flip_test=True)
    for crop, mirrored in zip(told.crops[:2], told.crops[2:], strict=True):
        np.testing.assert_array_equal(mirrored, crop[:, ::-1])

    back = maps[2:, list(spec.skeleton.flip_order), :, ::-1]
    if alignment == "legacy":  # one cell to the right; the first column stays
        back = np.concatenate([back[..., :1], back[..., :-1]], axis=-1)
    points, scores = spec.heatmap_codec().decode(((maps[:2] + back) / 2).astype(np.float32))
    for box, one, found, own, heights in zip(
        (BOX, OTHER), once, twice, points, scores, strict=True
    ):
        np.testing.assert_allclose(found[:, :2], spec.crop(box).to_image(own), atol=1e-3)
        np.testing.assert_allclose(found[:, 2], heights, atol=1e-6)
        assert (np.abs(found - one).max(axis=1) > 1e-3).all()


def test_flip_test_of_a_center_network_is_the_mean_of_both_answers() -> None:
    spec = spec_of(CenterHead(boxes=False))
    rng = np.random.default_rng(0)
    channels = {"center": 1, "kpt_heatmap": 17, "kpt_regress": 34, "kpt_offset": 34}
    maps = {
        name: rng.normal(size=(4, count, 32, 24)).astype(np.float32)
        for name, count in channels.items()
    }
    told = Told(lambda i: {name: values[i] for name, values in maps.items()})
    once = keypoints(pipeline_of(told, spec=spec))
    twice = keypoints(pipeline_of(told, spec=spec), flip_test=True)

    each, each_score = spec.center_codec().decode_single(maps)
    order = list(spec.skeleton.flip_order)
    back = np.stack([95 - each[2:, order, 0], each[2:, order, 1]], axis=-1)
    points, scores = (each[:2] + back) / 2, (each_score[:2] + each_score[2:][:, order]) / 2
    for box, one, found, own, heights in zip(
        (BOX, OTHER), once, twice, points, scores, strict=True
    ):
        np.testing.assert_allclose(found[:, :2], spec.crop(box).to_image(own), atol=1e-3)
        np.testing.assert_allclose(found[:, 2], heights, atol=1e-6)
        assert (np.abs(found - one).max(axis=1) > 1e-3).all()


@pytest.mark.parametrize("alignment", ["udp", "legacy"])
def test_only_the_official_crop_is_not_smoothed(alignment: Alignment) -> None:
    spec = spec_of(SimpleHead(), alignment)
    large = np.random.default_rng(0).integers(0, 255, (800, 600, 3), dtype=np.uint8)
    box = (0.0, 0.0, 600.0, 800.0)
    told = Told(standing())
    pipeline_of(told, spec=spec).people(large, PoseOptions((box,)), Job())
    expected = warp(large, spec.crop(box), antialias=alignment == "udp")
    np.testing.assert_array_equal(told.crops[0], expected)
    other = warp(large, spec.crop(box), antialias=alignment != "udp")
    assert (told.crops[0] != other).any()


@pytest.mark.parametrize(("height", "score"), [(1.3, 1.0), (0.8, 0.8), (-0.2, 0.0)])
def test_a_score_is_between_0_and_1(height: float, score: float) -> None:
    flat = np.full((17, 32, 24), -0.1, np.float32)
    maps_of = standing(height) if height > 0 else lambda _: {OUTPUT: flat}
    found = keypoints(pipeline_of(Told(maps_of)))
    # The middle of a peak lies between cells, which are a little lower.
    np.testing.assert_allclose(found[..., 2], score, atol=0.08)
    assert found[..., 2].min() >= 0
    assert found[..., 2].max() <= 1


def test_one_person_in_two_boxes_is_answered_once_with_the_better_one() -> None:
    beside = (BOX[0] + 2, *BOX[1:])
    finder = Finder(ScoredBox(beside, 0.8), ScoredBox(BOX, 0.9), ScoredBox(OTHER, 0.7))
    found = pipeline_of(Told(standing()), finder).people(noise(), PoseOptions(), Job())
    assert [(p.box_xywh, p.box_score) for p in found.people] == [(BOX, 0.9), (OTHER, 0.7)]


def test_every_box_of_the_client_is_answered() -> None:
    """Also where two are the same, or more than people are asked for."""
    options = PoseOptions((OTHER, BOX, BOX), max_people=1)
    found = pipeline_of(Told(standing())).people(noise(), options, Job())
    assert [person.box_xywh for person in found.people] == [OTHER, BOX, BOX]


@pytest.mark.parametrize(("threshold", "run"), [(0.0, 2), (0.5, 1), (0.95, 0)])
def test_boxes_that_cannot_be_answered_are_not_run(threshold: float, run: int) -> None:
    """At threshold 0 too: hardly ever is there anybody in a box of 0.04."""
    finder = Finder(ScoredBox(BOX, 0.9), ScoredBox(OTHER, 0.06), ScoredBox((9, 9, 20, 50), 0.04))
    told = Told(standing())
    pipeline_of(told, finder).people(noise(), PoseOptions(threshold=threshold), Job())
    assert len(told.crops) == run


def test_while_crops_are_run_the_photographs_pixels_are_not_held() -> None:
    room, held = Room(10_000_000), list[int]()

    def maps_of(_: int) -> Maps:
        held.append(room.held)
        return standing()(0)

    with Photo(encode_image(noise(), "png"), room=room.of(Job())) as photo:
        _ = photo.pixels
        assert room.held == 3 * HEIGHT * WIDTH
        pipeline_of(Told(maps_of)).people(photo, PoseOptions((BOX,)), Job())
    assert held == [0]


@pytest.mark.parametrize(
    ("crops", "queue", "network"),
    [
        ([], 0.0, 0.0),
        ([(2.0, 5.0)], 2.0, 5.0),
        ([(1.0, 4.0), (2.0, 4.0), (5.0, 4.0)], 1.0, 8.0),  # two cores, the third crop is next
        ([(1.0, 4.0), (7.0, 2.0)], 3.0, 6.0),  # somebody else's crop between them
        ([(3.0, 9.0), (4.0, 1.0)], 3.0, 9.0),
    ],
)
def test_waiting_and_computing_add_up_to_the_time_that_the_crops_took(
    crops: list[tuple[float, float]], queue: float, network: float
) -> None:
    ran = [Ran({}, queue_ms=begun, network_ms=took) for begun, took in reversed(crops)]
    assert Timing.of(ran) == Timing(queue, network)
