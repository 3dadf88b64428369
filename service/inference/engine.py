"""Every network this process serves: loads them by name, keeps them, answers with them."""

import logging
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from heads import zoo
from heads.checkpoint import read_spec
from heads.errors import WeightsMissing
from heads.image import decode_image, warp
from heads.skeleton import Skeleton
from heads.spec import NetworkSpec
from models.errors import UnknownName
from service.errors import InvalidParameter
from service.inference.answers import DetectAnswer, Image, ModelState, PoseAnswer, PoseOptions
from service.inference.batcher import BatchCounters, Batcher
from service.inference.job import Job
from service.inference.pipeline import Found, PeopleNetwork, Pipeline, PoseNetwork
from service.inference.runtime import TorchRuntime, use_threads

if TYPE_CHECKING:
    import torch

log = logging.getLogger("hrpose")

DEFAULT = "default"
NO_DETECTOR = "none"

DEFAULT_DETECTOR = "movenet_multipose"
EMBEDDED_DEFAULT = "movenet_thunder"
"""The embedded network with the best AP on the validation photos; docs/scores.md has the table."""

OFFICIAL_DEFAULTS = ("hrnet_w48", "hrnet_w32")
"""Official HRNet files win the default as soon as they are in the cache."""


@dataclass(frozen=True)
class ModelInfo:
    """What is known of one network without loading it."""

    name: str
    task: str
    state: ModelState
    backbone: str
    head: str
    input_size: tuple[int, int] | None
    parameters: int | None
    licence: str
    origin: str
    scores: dict[str, float | str] = field(default_factory=dict)
    command: str | None = None
    is_default: bool = False
    skeleton: Skeleton | None = None


@dataclass(frozen=True)
class Batching:
    """How a network's crops are batched; see Batcher."""

    max_batch: int = 8
    max_wait_ms: float = 0.0
    max_queue: int = 256


class Engine:
    """Networks by name, each loaded once on first use. Thread-safe; its methods block.

    model: a name of `hrpose models`, a checkpoint file, or `default`.
    detector: the `people` network that finds boxes for pose networks, or `none`.
    threads: CPU threads of the network, 0 for one a core.
    max_queue: crops that may wait for one network.
    """

    def __init__(
        self,
        *,
        model: str = DEFAULT,
        detector: str = DEFAULT_DETECTOR,
        device: str = "cpu",
        threads: int = 0,
        max_batch: int = 8,
        max_wait_ms: float = 0.0,
        max_queue: int = 256,
        max_megapixels: float = 50.0,
        max_people: int = 100,
    ) -> None:
        self.device = device
        self.threads = threads
        self.detector = detector
        self.max_people = max_people
        self._max_pixels = int(max_megapixels * 1e6)
        self._batching = Batching(max_batch, max_wait_ms, max_queue)
        self._turn = threading.Lock()  # held while a network runs: one computation a device
        self._loading = threading.Lock()
        self._networks: dict[str, PeopleNetwork | PoseNetwork] = {}
        self._files: dict[str, Path] = {}
        self._started = False
        self.default = self._resolve(model)

    def start(self) -> None:
        """Loads the default network and the detector and runs each once."""
        self.threads = use_threads(self.threads)
        image = np.zeros((256, 256, 3), np.uint8)
        for name in dict.fromkeys((self.default, self.detector)):
            if name == NO_DETECTOR:
                continue
            network = self._network(name)
            whole = isinstance(network, PeopleNetwork)
            spec = network.spec
            crop = spec.whole((256, 256)) if whole else spec.crop((0, 0, 256, 256))
            network.batcher.run([warp(image, crop)], Job())
        self._started = True
        log.info(
            "default network %s, detector %s, on %s with %d threads",
            self.default, self.detector, self.device, self.threads,
        )  # fmt: skip

    def close(self) -> None:
        """Ends every network's thread; what waits is refused."""
        self._started = False
        with self._loading:
            for network in self._networks.values():
                network.batcher.close()
            self._networks.clear()

    @property
    def ready(self) -> bool:
        """True when warm and no queue is full."""
        return self._started and all(n.batcher.has_room for n in list(self._networks.values()))

    def pose(self, data: bytes, model: str, options: PoseOptions, job: Job) -> PoseAnswer:
        """Everybody in the image of a JPEG, PNG, WebP or BMP file."""
        start = time.perf_counter()
        pipeline = self.pipeline(model)
        image, decode_ms = self._decode(data, job)
        found = pipeline.people(image, options, job)
        return self._answer(pipeline, image, found, decode_ms, start)

    def detect(
        self, data: bytes, model: str | None, threshold: float | None, max_people: int, job: Job
    ) -> DetectAnswer:
        """Where people are; model: a `people` network, None for the detector."""
        start = time.perf_counter()
        name = self.detector if model is None else model
        if name == NO_DETECTOR:
            raise InvalidParameter("model", "this server runs without a detector; name a model")
        pipeline = self.pipeline(name)
        if not isinstance(pipeline.network, PeopleNetwork):
            raise InvalidParameter("model", f"{pipeline.spec.name} finds no boxes; it needs them")
        image, decode_ms = self._decode(data, job)
        job.check()
        people, timing = pipeline.network.find(image, job)
        least = pipeline.spec.threshold if threshold is None else threshold
        people = [p for p in people if (p.box_score or 0.0) >= least][:max_people]
        return DetectAnswer(
            model=pipeline.spec.name,
            boxes_xywh=tuple(p.box_xywh for p in people),
            scores=tuple(p.box_score or 0.0 for p in people),
            image=image,
            timing_ms={
                "decode": decode_ms,
                "detect": 0.0,
                "queue": timing.queue,
                "network": timing.network,
                "total": (time.perf_counter() - start) * 1000,
            },
        )

    def pipeline(self, name: str) -> Pipeline:
        """The pipeline of a network; loads it on first use. UnknownName, WeightsMissing."""
        network = self._network(name)
        if isinstance(network, PeopleNetwork) or self.detector == NO_DETECTOR:
            return Pipeline(network)
        detector = self._network(self.detector)
        if not isinstance(detector, PeopleNetwork):
            raise InvalidParameter("detector", f"{self.detector} finds no people; it needs boxes")
        return Pipeline(network, detector)

    def models(self) -> list[ModelInfo]:
        """All known networks, also those whose weights are not here."""
        names = dict.fromkeys((*self._files, *(entry.name for entry in zoo.entries())))
        return [self.model(name) for name in names]

    def model(self, name: str) -> ModelInfo:
        """What is known of one network; `default` is an alias. UnknownName if there is none."""
        name = self.default if name == DEFAULT else name
        if name in self._files:
            return self._info_of_spec(name, read_spec(self._files[name]))
        entry = zoo.find(name)
        try:
            path = zoo.locate(name)
        except WeightsMissing as missing:
            return _info_of_entry(entry, "weights-missing", missing.command)
        if entry.embedded:
            return self._info_of_spec(name, read_spec(path))
        return _info_of_entry(entry, self._state(name), None, name == self.default)

    def counters(self) -> dict[str, BatchCounters]:
        """What each loaded network has done."""
        return {name: n.batcher.counters() for name, n in list(self._networks.items())}

    def _decode(self, data: bytes, job: Job) -> tuple[Image, float]:
        job.check()
        start = time.perf_counter()
        image = decode_image(data, self._max_pixels)
        return image, (time.perf_counter() - start) * 1000

    def _answer(
        self, pipeline: Pipeline, image: Image, found: Found, decode_ms: float, start: float
    ) -> PoseAnswer:
        total_ms = (time.perf_counter() - start) * 1000
        return PoseAnswer(
            model=pipeline.spec.name,
            skeleton=pipeline.spec.skeleton,
            people=found.people,
            boxes_from=found.boxes_from,
            image=image,
            timing_ms={"decode": decode_ms, **found.timing_ms, "total": total_ms},
        )

    def _resolve(self, model: str) -> str:
        """What `default`, a name or a file means; a file is served under its stem."""
        if model == DEFAULT:
            return resolve_default()
        path = Path(model)
        if path.suffix == ".safetensors":
            name = read_spec(path).name
            self._files[name] = path
            return name
        return zoo.find(model).name

    def _network(self, name: str) -> PeopleNetwork | PoseNetwork:
        name = self.default if name == DEFAULT else name
        network = self._networks.get(name)
        if network is not None:
            return network
        self._known(name)
        with self._loading:
            if name not in self._networks:
                from heads.load import load

                loaded = load(self._files.get(name, name))
                self._networks[name] = serve_network(
                    loaded, loaded.spec, self.device, self._turn, self._batching
                )
            return self._networks[name]

    def _known(self, name: str) -> None:
        if name in self._files:
            return
        try:
            zoo.find(name)
        except UnknownName as error:
            raise UnknownName("model", name, (*error.known, *self._files, DEFAULT)) from None

    def _state(self, name: str) -> ModelState:
        return "loaded" if name in self._networks else "available"

    def _info_of_spec(self, name: str, spec: NetworkSpec) -> ModelInfo:
        return ModelInfo(
            name=name,
            task=spec.task,
            state=self._state(name),
            backbone=spec.backbone.name,
            head=spec.head.kind,
            input_size=spec.input_size,
            parameters=spec.provenance.parameters,
            licence=spec.provenance.licence,
            origin=spec.provenance.origin,
            scores=dict(spec.provenance.scores),
            is_default=name == self.default,
            skeleton=spec.skeleton,
        )


def serve_network(
    network: "torch.nn.Module",
    spec: NetworkSpec,
    device: str,
    turn: threading.Lock,
    batching: Batching | None = None,
) -> PeopleNetwork | PoseNetwork:
    """Starts the batcher of a network, on a device whose networks take turns by `turn`."""
    batching = batching or Batching()
    batcher = Batcher(
        spec.name,
        TorchRuntime(network, spec, device),
        device=turn,
        max_batch=batching.max_batch,
        max_wait_ms=batching.max_wait_ms,
        max_queue=batching.max_queue,
    )
    return (PeopleNetwork if spec.task == "people" else PoseNetwork)(spec, batcher)


def resolve_default() -> str:
    """What `default` means here: an official HRNet in the cache, or the embedded network."""
    return next((name for name in OFFICIAL_DEFAULTS if _is_here(name)), EMBEDDED_DEFAULT)


def _is_here(name: str) -> bool:
    try:
        zoo.locate(name)
    except WeightsMissing:
        return False
    return True


def _info_of_entry(
    entry: zoo.ZooEntry, state: ModelState, command: str | None, is_default: bool = False
) -> ModelInfo:
    backbone, _, head = entry.network.partition("+")
    return ModelInfo(
        name=entry.name,
        task=entry.task,
        state=state,
        backbone=backbone,
        head=head,
        input_size=entry.input_size,
        parameters=None,
        licence=entry.licence,
        origin=entry.source,
        scores={"published": entry.published_score},
        command=command,
        is_default=is_default,
    )
