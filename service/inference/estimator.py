"""A network ready to answer about images, for Python callers: what the server has, without it."""

import contextlib
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from heads.image import Image
from heads.person import Box, Person
from heads.photo import Photo
from heads.spec import NetworkSpec
from models.errors import SpecError
from service.errors import Conflict, InvalidParameter
from service.inference.answers import MAX_COORDINATE_PX, ClassScore, PoseOptions
from service.inference.catalogue import DEFAULT, resolve_default
from service.inference.engine import DEFAULT_DETECTOR, NO_DETECTOR, no_detector, serve_network
from service.inference.job import Job
from service.inference.loading import (
    DEFAULT_PRECISION,
    EXPORTED,
    Loaded,
    Loader,
    RuntimeChoice,
    at_hand,
    choose,
)
from service.inference.memory import return_freed
from service.inference.networks import Served
from service.inference.pipeline import PeopleNetwork, Pipeline, PoseNetwork
from service.inference.runtime import Precision
from service.inference.whole import ClassifyNetwork, SegmentNetwork

if TYPE_CHECKING:
    from heads.network import Network


@dataclass(frozen=True)
class LazyNetwork:
    """A torch module that is not loaded yet: what `heads.load.load` takes."""

    source: str | Path
    network: str | None = None

    def load(self) -> "Network":
        """The module, in evaluation mode."""
        from heads.load import load as load_network

        return load_network(self.source, self.network)


class Estimator:
    """A network ready to answer about images. Thread-safe.

    It runs threads, which end when it is closed, at the end of a `with`, or when nobody has it any
    more. Once it is closed, asking it anything raises Conflict.

    network: the torch module, or what loads it where `loaded` runs the network without.
    spec: what the network is; None takes its own.
    loader: makes the detector ready, once it is asked for.
    """

    def __init__(
        self,
        network: "Network | LazyNetwork",
        spec: NetworkSpec | None = None,
        device: str = "cpu",
        *,
        loader: Loader | None = None,
        loaded: Loaded | None = None,
        detector: str | Path = DEFAULT_DETECTOR,
    ) -> None:
        self._network: Network | LazyNetwork | None = network
        self._loading = threading.Lock()
        self._loader = loader or Loader(choose("torch", device=device))
        if loaded is None:
            loaded = self._loader.module(self.network, spec)
        self.spec = loaded.spec
        self.runtime = loaded.runtime.words
        self._turn = threading.Semaphore(self._loader.compute.streams)
        self._serving: Served | None = serve_network(loaded, self._turn)
        self._detector_name = detector
        self._detector: PeopleNetwork | None = None
        self._running = contextlib.ExitStack()
        self._running.callback(self._serving.batcher.close)
        self._let_go = weakref.finalize(self, _end, self._running)
        self._let_go.atexit = False  # its threads are no reason for a program to stay

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends its threads and gives the networks' memory back; what waits is refused."""
        self._let_go.detach()
        with self._loading:
            self._network = self._serving = self._detector = None
        self._running.close()
        return_freed()

    @property
    def network(self) -> "Network":
        """The torch module: normalised float32 [N, 3, H, W] -> heatmaps or named maps."""
        with self._loading:
            network = self._network
            if isinstance(network, LazyNetwork):
                network = self._network = network.load()
        if network is None:
            raise self._closed()
        return network

    def predict(
        self,
        image_rgb_uint8: Image | Photo,
        boxes_xywh: Sequence[Box] | None = None,
        *,
        threshold: float | None = None,
        flip_test: bool = False,
    ) -> list[Person]:
        """Everybody in an RGB uint8 [H, W, 3] image or Photo, best first.

        With boxes, one person a box.

        boxes_xywh: left, top, width, height in pixels. Without boxes a pose network asks the
        default detector. Raises ShapeError for another kind of image, InvalidParameter for boxes
        outside the image.
        """
        serving = self._served()
        if not isinstance(serving, PeopleNetwork | PoseNetwork):
            raise SpecError(f"{self.spec.name} is a {self.spec.task} network; it finds no people")
        boxes = None if boxes_xywh is None else tuple(as_box(box) for box in boxes_xywh)
        needs_boxes = boxes is None and isinstance(serving, PoseNetwork)
        detector = self._box_finder() if needs_boxes else None
        options = PoseOptions(boxes, threshold, flip_test=flip_test)
        return list(Pipeline(serving, detector).people(image_rgb_uint8, options, Job()).people)

    def classify(self, image_rgb_uint8: Image | Photo, top_k: int = 5) -> list[ClassScore]:
        """The top_k likeliest classes of an image, by a classification network."""
        serving = self._served()
        if not isinstance(serving, ClassifyNetwork):
            raise SpecError(f"{self.spec.name} is a {self.spec.task} network; it cannot classify")
        return serving.classify(Photo.of(image_rgb_uint8), top_k, Job())[0]

    def segment(self, image_rgb_uint8: Image | Photo) -> Image:
        """The class of every pixel, uint8 [H, W] indices of `spec.classes`."""
        serving = self._served()
        if not isinstance(serving, SegmentNetwork):
            raise SpecError(f"{self.spec.name} is a {self.spec.task} network; it cannot segment")
        return serving.segment(Photo.of(image_rgb_uint8), Job())[0]

    def _served(self) -> Served:
        if self._serving is None:
            raise self._closed()
        return self._serving

    def _closed(self) -> Conflict:
        return Conflict(f"this estimator of {self.spec.name} was closed; load another one")

    def _box_finder(self) -> PeopleNetwork | None:
        """The detector, loaded when it is first asked; None where none is wanted."""
        if self._detector_name == NO_DETECTOR:
            return None
        with self._loading:
            self._served()  # else a detector would be loaded that nobody closes
            if self._detector is None:
                loaded = self._loader.load(self._detector_name, boxes_only=True)
                if loaded.spec.task != "people":
                    raise no_detector(loaded.spec.name)
                found = serve_network(loaded, self._turn)
                assert isinstance(found, PeopleNetwork)
                self._running.callback(found.batcher.close)
                self._detector = found
            return self._detector


def load(
    name_or_file: str | Path,
    network: str | None = None,
    device: str = "cpu",
    *,
    runtime: RuntimeChoice | None = None,
    precision: Precision = DEFAULT_PRECISION,
    threads_per_image: int = 1,
    detector: str | Path = DEFAULT_DETECTOR,
) -> Estimator:
    """The estimator of a name, of a checkpoint of ours, of a file exported from one, or public.

    name_or_file: a name of `hrpose models`, `default`, or a file.
    network: for public files (.pth), what they hold: `<backbone>+<head>`, as in
        `hrpose.load("pose_hrnet_w48.pth", network="hrnet_w48+simple")`.
    runtime: `torch` is at hand at once, and taken where it is installed; `openvino`, `onnx` and
        `auto`, the fastest one installed, are several times faster on a CPU, and export the
        network the first time.
    precision: `exact`, or `fast` where OpenVINO and the processor have bfloat16.
    threads_per_image: that work on the same crop (openvino, onnx; torch takes all). One a crop
        answers most photographs in a time, more answer one photograph sooner.
    detector: the `people` network that finds boxes for a pose network, loaded when first needed; a
        name or a file. `none` takes the whole image as the box.
    Raises UnknownName, WeightsMissing, CheckpointError, WeightsError, RuntimeMissing or
    ExportError, all HrposeErrors.
    """
    name = resolve_default() if str(name_or_file) == DEFAULT else name_or_file
    # What is exported runs by what reads it, torch being none.
    runtime = runtime or ("auto" if Path(name).suffix == EXPORTED else at_hand())
    compute = choose(runtime, precision, device, threads_per_image=threads_per_image)
    loader, lazy = Loader(compute), LazyNetwork(name, network)
    if loader.compute.runtime == "torch" and Path(name).suffix != EXPORTED:
        return Estimator(lazy.load(), loader=loader, detector=detector)
    return Estimator(lazy, loader=loader, loaded=loader.load(name, network), detector=detector)


def as_box(box: Sequence[float]) -> Box:
    """Any four numbers as left, top, width, height; InvalidParameter where they are no box."""
    try:
        left, top, width, height = (float(value) for value in box)
    except (TypeError, ValueError):
        raise InvalidParameter(
            "boxes", f"a box is [left, top, width, height]; got {box!r:.60}"
        ) from None
    small = all(abs(value) <= MAX_COORDINATE_PX for value in (left, top, width, height))
    if not (small and width > 0 and height > 0):  # no comparison holds of nan
        raise InvalidParameter(
            "boxes",
            f"a box has finite numbers up to {MAX_COORDINATE_PX:,.0f}, width and height above 0; "
            f"got {box!r:.60}",
        )
    return (left, top, width, height)


def _end(running: contextlib.ExitStack) -> None:
    """Ends what an estimator ran that nobody has any more."""
    # Found unreachable by one of its own threads, which ends without being waited for.
    with contextlib.suppress(RuntimeError):
        running.close()
