"""An engine that answers at once, or fails as its network's name says."""

import threading
import time
from typing import TYPE_CHECKING

import numpy as np

from heads.errors import CheckpointError, WeightsMissing
from heads.image import decode_image
from heads.person import Box, Person
from heads.skeleton import COCO_17
from models.errors import UnknownName
from service.errors import Conflict, InvalidParameter, Overloaded
from service.inference.answers import (
    ClassifyAnswer,
    ClassScore,
    DetectAnswer,
    PoseAnswer,
    PoseOptions,
    SegmentAnswer,
)
from service.inference.batcher import BatchCounters
from service.inference.job import Job
from service.inference.networks import named_loading

if TYPE_CHECKING:
    from service.inference.catalogue import ModelInfo
    from service.inference.networks import Change

NETWORKS = ("fast", "finder", "slow", "stuck", "full", "broken", "missing", "namer", "painter")

TASKS = {"finder": "people", "namer": "classify", "painter": "segment"}

SECRET = "/home/somebody/secret"
"""Stands in the messages of faults; no answer may show it."""

# Shares of a box's width and height: a person who stands and looks at us.
_STANDING = (
    (0.50, 0.09), (0.54, 0.07), (0.46, 0.07), (0.59, 0.09), (0.41, 0.09), (0.68, 0.22),
    (0.32, 0.22), (0.78, 0.38), (0.22, 0.38), (0.82, 0.52), (0.18, 0.52), (0.60, 0.52),
    (0.40, 0.52), (0.62, 0.74), (0.38, 0.74), (0.63, 0.95), (0.37, 0.95),
)  # fmt: skip


def standing_person(box: Box, box_score: float | None, score: float = 0.9) -> Person:
    """Somebody who fills the box."""
    left, top, width, height = box
    points = [(left + x * width, top + y * height, score) for x, y in _STANDING]
    return Person(np.array(points, np.float32), score * (box_score or 1.0), box, box_score)


class FakeEngine:
    """Networks by name: `fast` answers, `slow` takes slow_s, `stuck` waits until it is dropped ...

    Two people stand in every image: one in its left half, one in its right.
    """

    default = "fast"
    detector = "finder"
    runtime = "openvino exact"
    width = 1000

    def __init__(
        self,
        max_megapixels: float = 50.0,
        loading: threading.Event | None = None,
        slow_s: float = 0.6,
    ) -> None:
        self.slow_s = slow_s
        self.is_full = False
        self.random_weights = False
        self.absent = {"missing"}
        self.closed = False
        self.asked: list[tuple[str, PoseOptions]] = []
        self.changes: list[tuple[str, str]] = []
        self.working = threading.Semaphore(0)
        self.dropped = threading.Semaphore(0)
        self._max_pixels = int(max_megapixels * 1e6)
        self._loading = loading
        self._started = False

    def start(self) -> None:
        """Loads, which takes until the test says so."""
        if self._loading is not None:
            self._loading.wait(10)
        self._started = True

    def close(self) -> None:
        """Takes note."""
        self.closed = True

    @property
    def ready(self) -> bool:
        """Loaded, and not said to be full."""
        return self._started and not self.is_full

    def models(self) -> "list[ModelInfo]":
        """All of NETWORKS."""
        return [self.model(name) for name in NETWORKS]

    def model(self, name: str) -> "ModelInfo":
        """One of NETWORKS; the weights of `missing` are missing."""
        from service.inference.catalogue import ModelInfo

        name = self._known(name)
        missing = name in self.absent
        return ModelInfo(
            name=name,
            task=TASKS.get(name, "pose"),
            state="weights-missing" if missing else "loaded",
            backbone="hrnet_w32",
            head="simple",
            input_size=(256, 192),
            parameters=28_536_113,
            licence="Apache-2.0",
            origin="a test",
            scores={"AP": 0.5},
            command=f"hrpose weights get {name}" if missing else None,
            is_default=name == self.default,
            skeleton=COCO_17,
        )

    def load(self, model: str, force: bool = False) -> "Change":
        """Takes no time, but `slow`; `broken` is refused."""
        name = self._known(model)
        self.changes.append(("force" if force else "load", name))
        if name == "slow":
            self.working.release()
            with named_loading(name):
                time.sleep(20 * self.slow_s)  # longer than a server may take to end
        if name == "broken":
            raise CheckpointError("broken.safetensors is damaged")
        return "swapped" if force else "unchanged"

    def unload(self, model: str) -> "Change":
        """The default network stays."""
        self.changes.append(("unload", self._known(model)))
        if self._known(model) == self.default:
            raise Conflict(f"{model} is the default network")
        return "unloaded"

    def pose(self, data: bytes, model: str, options: PoseOptions, job: Job) -> PoseAnswer:
        """Two people, or one a box."""
        name = self._known(model)
        self.asked.append((name, options))
        self._behave(name, job)
        image = decode_image(data, self._max_pixels)
        height, width = image.shape[:2]
        if options.boxes_xywh is None:
            found: list[tuple[Box, float | None]] = [
                ((0.05 * width, 0.1 * height, 0.4 * width, 0.85 * height), 0.8),
                ((0.55 * width, 0.1 * height, 0.4 * width, 0.85 * height), 0.7),
            ]
        else:
            found = [(box, None) for box in options.boxes_xywh]
        for box, _ in found:
            if box[0] >= width or box[1] >= height or box[0] + box[2] <= 0 or box[1] + box[3] <= 0:
                raise InvalidParameter("boxes", f"box {list(box)} lies outside the image")
        people = [standing_person(box, score) for box, score in found]
        kept = [p for p in people if p.score >= (options.threshold or 0.0)]
        return PoseAnswer(
            model=name,
            skeleton=COCO_17,
            people=tuple(kept[: options.max_people]),
            boxes_from="client" if options.boxes_xywh is not None else "detector:finder",
            image=image,
            timing_ms={"decode": 1.0, "detect": 2.0, "queue": 0.5, "network": 3.0, "total": 7.0},
        )

    def detect(
        self, data: bytes, model: str | None, threshold: float | None, max_people: int, job: Job
    ) -> DetectAnswer:
        """Two boxes."""
        name = self.detector if model is None else self._known(model)
        self._behave(name, job)
        image = decode_image(data, self._max_pixels)
        height, width = image.shape[:2]
        scored: tuple[tuple[float, float], ...] = ((0.8, 0.05), (0.7, 0.55))
        scored = tuple(pair for pair in scored if pair[0] >= (threshold or 0.0))[:max_people]
        return DetectAnswer(
            model=name,
            boxes_xywh=tuple(
                (x * width, 0.1 * height, 0.4 * width, 0.85 * height) for _, x in scored
            ),
            scores=tuple(score for score, _ in scored),
            image=image,
            timing_ms={"total": 2.0},
        )

    def classify(self, data: bytes, model: str | None, top_k: int, job: Job) -> ClassifyAnswer:
        """Three classes, the likeliest first."""
        name = "namer" if model is None else self._known(model)
        self._behave(name, job)
        image = decode_image(data, self._max_pixels)
        shown = (("cat", 0.7), ("dog", 0.2), ("cow", 0.1))[:top_k]
        return ClassifyAnswer(
            model=name,
            classes=tuple(ClassScore(i, word, p) for i, (word, p) in enumerate(shown)),
            random_weights=self.random_weights,
            image=image,
            timing_ms={"decode": 1.0, "network": 2.0, "total": 3.0},
        )

    def segment(self, data: bytes, model: str | None, job: Job) -> SegmentAnswer:
        """Sky above, grass below, and nothing of the third class."""
        name = "painter" if model is None else self._known(model)
        self._behave(name, job)
        image = decode_image(data, self._max_pixels)
        class_map = np.zeros(image.shape[:2], np.uint8)
        class_map[image.shape[0] // 4 :] = 2
        return SegmentAnswer(
            model=name,
            class_names=("sky", "water", "grass"),
            palette=((0, 0, 200), (0, 200, 200), (0, 200, 0)),
            class_map=class_map,
            random_weights=self.random_weights,
            image=image,
            timing_ms={"total": 2.0},
        )

    def counters(self) -> dict[str, BatchCounters]:
        """Always the same."""
        return {"fast": BatchCounters(crops=5, batches=3, shared_batches=1, queue_depth=2)}

    def _known(self, name: str) -> str:
        name = self.default if name == "default" else name
        if name not in NETWORKS:
            raise UnknownName("model", name, NETWORKS)
        return name

    def _behave(self, name: str, job: Job) -> None:
        if name == "full":
            raise Overloaded("the queue holds 256 of 256 crops", 2.3)
        if name == "broken":
            raise RuntimeError(f"cannot read {SECRET}")
        if name in self.absent:
            raise WeightsMissing(name, f"hrpose weights get {name}", f"put the file into {SECRET}")
        if name in ("slow", "stuck"):
            self.working.release()
            self._wait(None if name == "stuck" else self.slow_s, job)

    def _wait(self, seconds: float | None, job: Job) -> None:
        end = None if seconds is None else time.monotonic() + seconds
        try:
            while end is None or time.monotonic() < end:
                job.check()
                time.sleep(0.005)
        except Exception:
            self.dropped.release()
            raise
