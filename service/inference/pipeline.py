"""From an image to people: what the server, `hrpose predict`, the evaluator and benchmarks call.

people network:  image -> view -> Batcher -> center maps -> people
pose network:    image -> boxes -> crops -> Batcher -> heatmaps -> people
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from heads.geometry import Crop, antialiased, clip_box, flip_heatmaps, flip_points
from heads.onnx_file import OUTPUT
from heads.person import Box, FloatArray, Person, ScoredBox, person_score
from heads.photo import Photo
from heads.spec import NetworkSpec
from heads.suppression import box_iou, oks_nms
from service.errors import InvalidParameter
from service.inference.answers import Image, PoseOptions
from service.inference.batcher import Batcher, Ran
from service.inference.job import Job

SAME_PERSON_OKS = 0.9
"""Two answers more alike than this are one person (official HRNet evaluation)."""

SAME_BOX_IOU = 0.5
"""Of two looks' boxes that overlap more than this the first look's stays."""

MIN_BOX_SCORE = 0.05
"""Boxes below this are hardly ever people, and each costs a pass of the pose network."""


@dataclass(frozen=True)
class Found:
    """People, where their boxes came from, and milliseconds by phase."""

    people: tuple[Person, ...]
    boxes_from: str
    timing_ms: dict[str, float]


@dataclass(frozen=True)
class Timing:
    """How long crops that were asked for together took, in milliseconds.

    queue: while some waited and none was computed.  network: while one was computed at least.
    """

    queue: float = 0.0
    network: float = 0.0

    @classmethod
    def of(cls, ran: Sequence[Ran]) -> "Timing":
        """Those of crops that began to wait at once."""
        over = network = 0.0
        for begun, took in sorted((r.queue_ms, r.network_ms) for r in ran):
            network += max(0.0, begun + took - max(begun, over))
            over = max(over, begun + took)
        return cls(over - network, network)

    def __add__(self, other: "Timing") -> "Timing":
        """One after the other."""
        return Timing(self.queue + other.queue, self.network + other.network)


class PeopleNetwork:
    """A network that finds everybody in one pass; also the detector of the top-down path."""

    def __init__(self, spec: NetworkSpec, batcher: Batcher) -> None:
        self.spec = spec
        self.batcher = batcher
        self._codec = spec.center_codec()

    def find(self, photo: Photo, job: Job) -> tuple[list[Person], Timing]:
        """Everybody in the photograph, best centre first, whatever their score."""
        view = self.spec.whole(photo.size)
        maps, timing = self._look(photo, view, job)
        (found,) = self._codec.decode_people(maps)
        return found.people(view, photo.size), timing

    def boxes(self, photo: Photo, job: Job) -> tuple[list[ScoredBox], Timing]:
        """Where people are, surest first, whatever their score.

        Where the network's view has a glance, that is tried first; the photograph is looked at
        more closely only if somebody looks small in it, or nobody is seen. A network that is fed
        with a large person finds the middle but misjudges the box, so the glance is not only the
        cheaper one: what it sees large and is sure of stays.
        """
        size, glance = photo.size, self.spec.view.glance
        whole = self.spec.whole(size)
        if glance is None:
            return self._boxes_in(photo, whole, job)
        photo.prepare([whole])  # most crops need as much, and decoding again costs more
        glanced, timing = self._boxes_in(photo, self.spec.whole(size, glance.short_side), job)
        sure = [box for box in glanced if box.score >= glance.score]
        least = glance.height * min(size)
        large = [box for box in sure if box.xywh[3] >= least]
        if sure and len(large) == len(sure):
            return glanced, timing
        seen, closer = self._boxes_in(photo, whole, job)
        boxes = large + _unlike(seen, large)
        return sorted(boxes, key=lambda box: -box.score), timing + closer

    def _boxes_in(self, photo: Photo, view: Crop, job: Job) -> tuple[list[ScoredBox], Timing]:
        maps, timing = self._look(photo, view, job)
        return self._codec.decode_boxes(maps, view, photo.size), timing

    def _look(self, photo: Photo, view: Crop, job: Job) -> tuple[dict[str, FloatArray], Timing]:
        """The center maps of one view, each [1, c, h, w]."""
        ran = self.batcher.run(photo.views([view]), job)
        return {name: values[None] for name, values in ran[0].maps.items()}, Timing.of(ran)


class PoseNetwork:
    """A network that finds the keypoints of one person in a crop."""

    def __init__(self, spec: NetworkSpec, batcher: Batcher) -> None:
        self.spec = spec
        self.batcher = batcher
        self._heatmaps = None if spec.head.kind == "center" else spec.heatmap_codec()
        self._center = spec.center_codec() if spec.head.kind == "center" else None

    def keypoints(
        self, photo: Photo, boxes_xywh: Sequence[Box], flip_test: bool, job: Job
    ) -> tuple[FloatArray, Timing]:
        """Keypoints [N, K, 3] as (x, y, score) in image pixels, one person a box."""
        crops = [self.spec.crop(box) for box in boxes_xywh]
        inputs = photo.views(crops, antialias=antialiased(self.spec.alignment))
        photo.forget()  # requests that wait for the network hold no pixels but their crops
        if not crops:
            return np.zeros((0, len(self.spec.skeleton.keypoints), 3), np.float32), Timing()
        if flip_test:
            inputs += [np.ascontiguousarray(crop[:, ::-1]) for crop in inputs]
        ran = self.batcher.run(inputs, job)
        points, scores = self._decode([r.maps for r in ran], flip_test)
        points = np.stack([crop.to_image(p) for crop, p in zip(crops, points, strict=True)])
        scores = scores.clip(0, 1)  # heights of heatmaps are only about in that range
        return np.concatenate([points, scores[..., None]], axis=-1).astype(np.float32), Timing.of(
            ran
        )

    def _decode(
        self, maps: Sequence[dict[str, npt.NDArray[np.float32]]], flip_test: bool
    ) -> tuple[FloatArray, FloatArray]:
        """Maps of each crop, then of each mirrored crop -> points [N, K, 2] px, scores [N, K]."""
        stacked = {name: np.stack([m[name] for m in maps]) for name in maps[0]}
        half = len(maps) // 2
        order = self.spec.skeleton.flip_order
        if self._heatmaps is not None:
            heatmaps = stacked[OUTPUT]
            if flip_test:
                back = flip_heatmaps(heatmaps[half:], order, self.spec.alignment)
                heatmaps = _mean(heatmaps[:half], back)
            return self._heatmaps.decode(heatmaps)
        assert self._center is not None
        points, scores = self._center.decode_single(stacked)
        if flip_test:
            # A center network's grid is not symmetric, so answers are averaged, not maps.
            back = flip_points(points[half:], self.spec.input_size[1], order)
            points = _mean(points[:half], back)
            scores = _mean(scores[:half], scores[half:][:, list(order)])
        return points, scores


class Pipeline:
    """Image to people by one network; a pose network also needs somebody who finds boxes.

    detector: None feeds the whole image to a pose network when no boxes are given.
    """

    def __init__(
        self, network: PeopleNetwork | PoseNetwork, detector: PeopleNetwork | None = None
    ) -> None:
        self.network = network
        self.detector = detector
        self.spec = network.spec

    def people(self, image: Image | Photo, options: PoseOptions, job: Job) -> Found:
        """Everybody in a photograph, or in an RGB uint8 [H, W, 3] image.

        Raises ShapeError or ImageError (not such an image), InvalidParameter (boxes or flip_test
        that cannot be used here), Overloaded, DeadlineExceeded or Cancelled.
        """
        photo = Photo.of(image)
        job.check()
        if isinstance(self.network, PeopleNetwork):
            return self._one_pass(self.network, photo, options, job)
        return self._top_down(self.network, photo, options, job)

    def _one_pass(
        self, network: PeopleNetwork, photo: Photo, options: PoseOptions, job: Job
    ) -> Found:
        if options.boxes_xywh is not None:
            raise InvalidParameter(
                "boxes", f"{self.spec.name} finds people by itself; boxes need a pose network"
            )
        if options.flip_test:
            raise InvalidParameter(
                "flip_test", f"{self.spec.name} answers in one pass; flip_test needs a pose network"
            )
        people, timing = network.find(photo, job)
        return Found(
            _best(people, self._least_score(options), options.max_people),
            f"detector:{self.spec.name}",
            {"detect": 0.0, "queue": timing.queue, "network": timing.network},
        )

    def _top_down(
        self, network: PoseNetwork, photo: Photo, options: PoseOptions, job: Job
    ) -> Found:
        start = time.perf_counter()
        photo_ms = photo.decode_ms + photo.wait_ms
        boxes, box_scores, boxes_from = self._boxes(photo, options, job)
        detect_ms = 0.0
        if boxes_from.startswith("det"):
            detect_ms = (time.perf_counter() - start) * 1000
            detect_ms -= photo.decode_ms + photo.wait_ms - photo_ms
        keypoints, timing = network.keypoints(photo, boxes, options.flip_test, job)
        people = [
            Person(points, person_score(points, box_score), box, box_score)
            for points, box, box_score in zip(keypoints, boxes, box_scores, strict=True)
        ]
        if boxes_from != "client":
            people = _without_repeats(people, self.spec.skeleton.sigmas)
            found = _best(people, self._least_score(options), options.max_people)
        else:
            # One answer a box, in the order sent; only an explicit threshold drops any.
            least = options.threshold
            found = tuple(p for p in people if least is None or p.score >= least)
        return Found(
            found,
            boxes_from,
            {"detect": detect_ms, "queue": timing.queue, "network": timing.network},
        )

    def _least_score(self, options: PoseOptions) -> float:
        return self.spec.threshold if options.threshold is None else options.threshold

    def _boxes(
        self, photo: Photo, options: PoseOptions, job: Job
    ) -> tuple[list[Box], list[float | None], str]:
        """Boxes, their scores, and who says so."""
        height, width = photo.size
        if options.boxes_xywh is not None:
            boxes = [_inside(box, (height, width)) for box in options.boxes_xywh]
            return boxes, [None] * len(boxes), "client"
        if self.detector is None:
            return [(0.0, 0.0, float(width), float(height))], [None], "image"
        found, _ = self.detector.boxes(photo, job)
        # A person's score is at most the box's, so lower boxes cannot be answered.
        least = max(MIN_BOX_SCORE, self._least_score(options))
        found = [box for box in found if box.score >= least and _has_area(box.xywh)]
        return (
            [box.xywh for box in found],
            [box.score for box in found],
            f"detector:{self.detector.spec.name}",
        )


def _mean(a: npt.NDArray[np.floating], b: npt.NDArray[np.floating]) -> FloatArray:
    return np.asarray((a + b) / 2, dtype=np.float32)


def _best(people: Sequence[Person], least_score: float, max_people: int) -> tuple[Person, ...]:
    """Those of at least that score, best first."""
    kept = sorted((p for p in people if p.score >= least_score), key=lambda p: -p.score)
    return tuple(kept[:max_people])


def _unlike(boxes: Sequence[ScoredBox], others: Sequence[ScoredBox]) -> list[ScoredBox]:
    """Those of the boxes that are none of the others'."""
    corners = np.array([(x, y, x + w, y + h) for (x, y, w, h), _ in (*others, *boxes)])
    overlaps = box_iou(corners.reshape(-1, 4))[len(others) :, : len(others)]
    return [
        box for box, over in zip(boxes, overlaps, strict=True) if not (over > SAME_BOX_IOU).any()
    ]


def _without_repeats(people: list[Person], sigmas: Sequence[float]) -> list[Person]:
    """One answer a person: of two that are nearly the same the better one stays."""
    if len(people) < 2:
        return people
    kept = oks_nms(
        np.stack([p.keypoints for p in people]),
        np.array([p.score for p in people]),
        np.array([p.box_xywh[2] * p.box_xywh[3] for p in people]),
        SAME_PERSON_OKS,
        sigmas=np.array(sigmas),
    )
    return [people[i] for i in kept]


def _has_area(box_xywh: Box) -> bool:
    return box_xywh[2] > 1 and box_xywh[3] > 1


def _inside(box_xywh: Box, image_size: tuple[int, int]) -> Box:
    """A client's box, refused where no more than a pixel of it lies in the image."""
    if not _has_area(clip_box(box_xywh, image_size)):
        raise InvalidParameter(
            "boxes",
            f"box {list(box_xywh)} has no more than a pixel inside the image of "
            f"{image_size[1]} x {image_size[0]} pixels; boxes are [left, top, width, height]",
        )
    return box_xywh
