"""Every network this process serves: loads them by name, keeps them, answers with them."""

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

from heads.classes import palette
from heads.errors import WeightsMissing
from heads.photo import Photo
from heads.spec import NetworkSpec, Task
from models.errors import SpecError, UnknownName
from service.errors import Conflict, InvalidParameter
from service.inference.answers import (
    ClassifyAnswer,
    DetectAnswer,
    PoseAnswer,
    PoseOptions,
    SegmentAnswer,
)
from service.inference.batcher import BatchCounters, Batcher
from service.inference.catalogue import (
    DEFAULT,
    DEFAULT_CLASSIFIER,
    Catalogue,
    ModelInfo,
)
from service.inference.cores import cores
from service.inference.job import Job
from service.inference.loading import DEFAULT_PRECISION, Loaded, Loader, RuntimeChoice, choose
from service.inference.networks import Change, Live, Networks, Served, warm
from service.inference.pipeline import PeopleNetwork, Pipeline, PoseNetwork, Timing
from service.inference.room import Room
from service.inference.runtime import Precision
from service.inference.stamp import Stamp, stamp_of
from service.inference.turns import Turns
from service.inference.whole import ClassifyNetwork, SegmentNetwork

log = logging.getLogger("hrpose")

NO_DETECTOR = "none"
DEFAULT_DETECTOR = "movenet_multipose"

REQUESTS_A_STREAM = 6
"""Worked on at once for each image that is computed: being decoded, waiting, being written."""

REQUESTS_A_CROP = 4
"""Likewise for each crop of a full batch: of two networks, one batch computed and one waiting."""


N = TypeVar("N", bound=Served)


@dataclass(frozen=True)
class Use(Generic[N]):
    """What a network is asked to do, and the networks that can, by their task."""

    verb: str
    kinds: Mapping[str, type[N]]

    def of(self, network: Served) -> N:
        """The network, if it can; else InvalidParameter."""
        kind = self.kinds.get(network.spec.task)
        if kind is None or not isinstance(network, kind):
            raise self.refusal(network.spec.name, network.spec.task)
        return network

    def refusal(self, name: str, task: str) -> InvalidParameter:
        """For a network of another task."""
        fit = " or ".join(self.kinds)
        return InvalidParameter(
            "model", f"{name} is a {task} network and cannot {self.verb}; name a {fit} network"
        )


KEYPOINTS = Use[PoseNetwork | PeopleNetwork](
    "find keypoints", {"pose": PoseNetwork, "people": PeopleNetwork}
)
BOXES = Use("find boxes", {"people": PeopleNetwork})
CLASSES = Use("classify", {"classify": ClassifyNetwork})
REGIONS = Use("segment", {"segment": SegmentNetwork})


@dataclass(frozen=True)
class Batching:
    """How a network's crops are batched; see Batcher."""

    max_batch: int = 8
    max_wait_ms: float = 0.0
    max_queue: int = 256


class Engine:
    """Networks by name, each loaded once on first use. Thread-safe; its methods block.

    model: a name of `hrpose models`, `<backbone>+<head>`, a checkpoint file, or `default`.
    detector: the `people` network that finds boxes for pose networks, or `none`.
    runtime: what runs networks: openvino, onnx, torch, or auto for the fastest that is installed.
    precision: exact or fast, see `service.inference.runtime`.
    threads: CPU threads, 0 for one a core: of one network (torch), or each with its own image.
    max_queue: crops that may wait for one network.
    max_pixels_mb: MiB of decoded photographs at once; others wait.
    max_models: networks loaded at once; the one that was not asked for longest makes room.
    allow_random: serves `<backbone>+<head>` without weights; the model's name says so.
    models_dir: a folder whose files are served by their names without the ending.
    """

    def __init__(
        self,
        *,
        model: str = DEFAULT,
        detector: str = DEFAULT_DETECTOR,
        device: str = "cpu",
        runtime: RuntimeChoice = "auto",
        precision: Precision = DEFAULT_PRECISION,
        threads: int = 0,
        threads_per_image: int = 1,
        max_batch: int = 8,
        max_wait_ms: float = 0.0,
        max_queue: int = 256,
        max_megapixels: float = 50.0,
        max_pixels_mb: float = 256.0,
        max_people: int = 100,
        max_models: int = 16,
        allow_random: bool = False,
        models_dir: Path | None = None,
    ) -> None:
        compute = choose(runtime, precision, device, threads, threads_per_image)
        self.device = device
        self.detector = detector
        self.max_people = max_people
        self._loader = Loader(compute, allow_random)
        self._max_pixels = int(max_megapixels * 1e6)
        self._batching = Batching(max_batch, max_wait_ms, max_queue)
        # Held while a network runs, so that networks share the cores and do not fight for them.
        self._turn = Turns(compute.streams)
        # More at once than cores would only hold more pixels.
        self._decoding = Turns(cores())
        self._room = Room(int(max_pixels_mb * 2**20))
        self._catalogue = Catalogue(model, allow_random, models_dir)
        if detector != NO_DETECTOR:
            self._catalogue.name_of(detector)  # one that there is none of is said at once
        self._networks = Networks(
            self._make, self._stamp, most=max_models, kept=(self.default, detector)
        )
        self._started = False

    @property
    def default(self) -> str:
        """The network that `default` means."""
        return self._catalogue.default

    def start(self) -> None:
        """Loads the default network and the detector and runs each once.

        A public network that was asked for by name is downloaded first; DownloadError says what to
        do where that is not possible.
        """
        self._catalogue.fetch(self.default)
        for name, whole in {self.detector: False, self.default: True}.items():
            if name != NO_DETECTOR:
                with self._network(name, whole=whole) as network:
                    if name == self.detector and not isinstance(network, PeopleNetwork):
                        raise no_detector(name)
                    warm(name, network)
        self._started = True
        log.info(
            "default network %s, detector %s, run by %s on %s",
            self.default, self.detector, self.runtime, self.device,
        )  # fmt: skip

    def close(self) -> None:
        """Ends every network's thread; what waits is refused."""
        self._started = False
        self._networks.close()
        self._loader.close()

    @property
    def runtime(self) -> str:
        """What runs the default network, with its precision once it is loaded: `openvino fast`."""
        live = self._networks.all().get(self.default)
        return self._loader.compute.runtime if live is None else live.runtime

    @property
    def width(self) -> int:
        """So many requests worked on at once keep the device busy; more would only hold memory."""
        compute = self._loader.compute
        if compute.runtime == "torch":
            return REQUESTS_A_CROP * self._batching.max_batch + cores()
        return REQUESTS_A_STREAM * compute.streams

    @property
    def ready(self) -> bool:
        """True when warm and no queue is full."""
        served = self._networks.all().values()
        return self._started and all(live.network.batcher.has_room for live in served)

    def load(self, model: str, force: bool = False) -> Change:
        """Loads a network, or swaps it where its file has changed; see Networks.load."""
        return self._networks.load(self._name_of(model), force)

    def unload(self, model: str) -> Change:
        """Ends a network that is loaded; Conflict for the default network and the detector."""
        name = self._name_of(model)
        for word, needed in (("default network", self.default), ("detector", self.detector)):
            if name == needed:
                raise Conflict(f"{name} is the {word} of this server and cannot be unloaded")
        return self._networks.unload(name)

    def pose(self, data: bytes, model: str, options: PoseOptions, job: Job) -> PoseAnswer:
        """Everybody in the image of a JPEG, PNG, WebP or BMP file."""
        start = time.perf_counter()
        with self.pipeline(model, job) as pipeline, self._photo(data, job) as photo:
            found = pipeline.people(photo, options, job)
        return PoseAnswer(
            model=pipeline.spec.name,
            skeleton=pipeline.spec.skeleton,
            people=found.people,
            boxes_from=found.boxes_from,
            image=photo,
            timing_ms={
                "decode": photo.decode_ms,
                **found.timing_ms,
                "queue": photo.wait_ms + found.timing_ms["queue"],
                "total": _ms_since(start),
            },
        )

    def detect(
        self, data: bytes, model: str | None, threshold: float | None, max_people: int, job: Job
    ) -> DetectAnswer:
        """Where people are; model: a `people` network, None for the detector."""
        start = time.perf_counter()
        name = self.detector if model is None else model
        if name == NO_DETECTOR:
            raise InvalidParameter("model", "this server runs without a detector; name a model")
        with self._fit(name, BOXES, job, whole=False) as network, self._photo(data, job) as photo:
            boxes, timing = network.boxes(photo, job)
        least = network.spec.threshold if threshold is None else threshold
        boxes = [box for box in boxes if box.score >= least][:max_people]
        return DetectAnswer(
            model=network.spec.name,
            boxes_xywh=tuple(box.xywh for box in boxes),
            scores=tuple(box.score for box in boxes),
            image=photo,
            timing_ms=_phases(start, photo, timing) | {"detect": 0.0},
        )

    def classify(self, data: bytes, model: str | None, top_k: int, job: Job) -> ClassifyAnswer:
        """What a photograph shows; model: a `classify` network, None for the default.

        That is the default network if it is one, and else the embedded one.
        """
        start = time.perf_counter()
        name = model or self._default_of("classify") or DEFAULT_CLASSIFIER
        with self._fit(name, CLASSES, job) as network, self._photo(data, job) as photo:
            classes, timing = network.classify(photo, top_k, job)
        return ClassifyAnswer(
            model=network.spec.name,
            classes=tuple(classes),
            random_weights=not network.spec.provenance.trained,
            image=photo,
            timing_ms=_phases(start, photo, timing),
        )

    def segment(self, data: bytes, model: str | None, job: Job) -> SegmentAnswer:
        """The class of every pixel; model: a `segment` network, None for the first at hand.

        That is the default network if it is one, and else one that is loaded or whose file is here.
        """
        start = time.perf_counter()
        name = model or self._default_of("segment") or self._segmenter_at_hand()
        with self._fit(name, REGIONS, job) as network, self._photo(data, job) as photo:
            found, timing = network.segment(photo, job)
        return SegmentAnswer(
            model=network.spec.name,
            class_names=network.spec.classes,
            palette=palette(len(network.spec.classes)),
            class_map=found,
            random_weights=not network.spec.provenance.trained,
            image=photo,
            timing_ms=_phases(start, photo, timing),
        )

    @contextmanager
    def pipeline(self, name: str, job: Job | None = None) -> Iterator[Pipeline]:
        """The pipeline of a network, which is loaded on first use. UnknownName, WeightsMissing.

        job: see Networks.lease.
        """
        with self._fit(name, KEYPOINTS, job) as network:
            if isinstance(network, PeopleNetwork) or self.detector == NO_DETECTOR:
                yield Pipeline(network)
                return
            with self._network(self.detector, job, whole=False) as detector:
                if not isinstance(detector, PeopleNetwork):
                    raise no_detector(self.detector)
                yield Pipeline(network, detector)

    def models(self) -> list[ModelInfo]:
        """All known networks, also those whose weights are not here."""
        return [self._with_runtime(info) for info in self._catalogue.infos(self._specs())]

    def model(self, name: str) -> ModelInfo:
        """What is known of one network; `default` is an alias. UnknownName if there is none."""
        name = self._name_of(name)
        return self._with_runtime(self._catalogue.info(name, self._specs()))

    def _with_runtime(self, info: ModelInfo) -> ModelInfo:
        live = self._networks.all().get(info.name)
        return replace(info, runtime=None if live is None else live.runtime)

    def _specs(self) -> dict[str, NetworkSpec]:
        return {name: live.network.spec for name, live in self._networks.all().items()}

    def counters(self) -> dict[str, BatchCounters]:
        """What has been done under the name of each network that is or was loaded."""
        return self._networks.counters()

    def _photo(self, data: bytes, job: Job) -> Photo:
        job.check()
        return Photo(data, self._max_pixels, decoding=self._decoding, room=self._room.of(job))

    def _default_of(self, task: Task) -> str | None:
        """The default network where it does that."""
        return self.default if self.model(DEFAULT).task == task else None

    def _segmenter_at_hand(self) -> str:
        """The first that is loaded, of the folder, or of the zoo; WeightsMissing without any."""
        name = self._catalogue.first_at_hand("segment", self._specs())
        if name is None:
            raise WeightsMissing("any segmentation network", "hrpose serve --model CHECKPOINT")
        return name

    @contextmanager
    def _fit(self, model: str, use: Use[N], job: Job | None, *, whole: bool = True) -> Iterator[N]:
        """A network for a use; InvalidParameter for one of another task.

        Which is said before it is loaded: another would have to make room for it, and nobody is
        told to download what will not do.
        """
        if self._name_of(model) not in self._networks:
            info = self.model(model)
            if info.task not in use.kinds:
                raise use.refusal(info.name, info.task)
        with self._network(model, job, whole=whole) as network:
            yield use.of(network)

    def _network(
        self, model: str, job: Job | None = None, *, whole: bool = True
    ) -> AbstractContextManager[Served]:
        return self._networks.lease(self._name_of(model), whole=whole, job=job)

    def _name_of(self, model: str) -> str:
        """What is loaded is served on, whatever has become of its file."""
        name = self.default if model == DEFAULT else model
        return name if name in self._networks else self._catalogue.name_of(name)

    def _make(self, name: str, whole: bool) -> Live:
        stamp = self._stamp(name)  # before it is read, so that a later change is seen
        self._catalogue.check(name)
        try:
            loaded = self._loader.load(self._catalogue.source(name), boxes_only=not whole)
        except UnknownName:
            raise
        except SpecError as error:  # as a head that the backbone has no maps for
            raise InvalidParameter("model", f"{name}: {error}") from error
        loaded = replace(loaded, spec=self._catalogue.named(name, loaded.spec))
        network = serve_network(loaded, self._turn, self._batching)
        return Live(network, loaded.runtime.words, stamp, loaded.whole)

    def _stamp(self, name: str) -> Stamp | None:
        file = self._catalogue.file(name)
        return None if file is None else stamp_of(file)


def serve_network(
    loaded: Loaded, turn: AbstractContextManager[bool], batching: Batching | None = None
) -> Served:
    """Starts the batcher of a network, on a device whose networks take turns by `turn`."""
    batching = batching or Batching()
    batcher = Batcher(
        loaded.spec.name,
        loaded.runtime,
        device=turn,
        workers=loaded.runtime.streams,
        max_batch=batching.max_batch,
        max_wait_ms=batching.max_wait_ms,
        max_queue=batching.max_queue,
    )
    kinds: dict[str, type[Served]] = {
        "people": PeopleNetwork,
        "pose": PoseNetwork,
        "classify": ClassifyNetwork,
        "segment": SegmentNetwork,
    }
    return kinds[loaded.spec.task](loaded.spec, batcher)


def no_detector(name: str) -> InvalidParameter:
    """The error for a network that was named as the detector and is none."""
    return InvalidParameter("detector", f"{name} finds no people; it needs boxes")


def _phases(start: float, photo: Photo, timing: Timing) -> dict[str, float]:
    """Milliseconds by phase of an answer that is complete now."""
    return {
        "decode": photo.decode_ms,
        "queue": photo.wait_ms + timing.queue,
        "network": timing.network,
        "total": _ms_since(start),
    }


def _ms_since(start: float) -> float:
    return (time.perf_counter() - start) * 1000
