"""How far a runtime's answers are from torch's: in maps, and in keypoints of photographs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from heads.image import Image, read_image
from heads.person import FloatArray, Person
from service.inference.estimator import Estimator
from service.inference.loading import Loaded, Loader, choose
from service.inference.runtime import Batch, Maps, Runtime, TorchRuntime

if TYPE_CHECKING:
    from heads.network import Network

SURE = 0.3
"""Keypoints of at least this score count as found."""

NOISE_IMAGES = 4


@dataclass(frozen=True)
class Parity:
    """A runtime held against torch on the same inputs.

    absolute: the largest difference of any value of any map.  relative: the same, over the range
    of the values of its map.  pixels: the largest distance between a keypoint of a photograph
    by one and by the other; sure_pixels: among those found; None where no keypoints were compared.
    noise: the inputs were noise, because there were no photographs or nobody was found in them.
    """

    runtime: str
    inputs: int
    absolute: float
    relative: float
    keypoints: int = 0
    pixels: float | None = None
    sure_pixels: float | None = None
    noise: bool = False


def measure(
    network: "Network", runtimes: Sequence[Runtime], photos: Sequence[Path]
) -> list[Parity]:
    """Each runtime against torch, which runs the network as it was built.

    photos: what the networks are fed with; noise where there are none, or nobody is in them.
    """
    spec = network.spec
    loader = Loader(choose("torch"))
    recorder = _Recorder(TorchRuntime(network, spec, fold=False))
    images = [read_image(photo) for photo in photos]
    theirs = _Answers(Estimator(network, loader=loader, loaded=Loaded(spec, recorder)), images)
    batches = recorder.batches or [_noise(spec.input_size)]
    wanted = [recorder.inner.run(batch) for batch in batches]
    rows = []
    for runtime in runtimes:
        absolute, relative = _differences(wanted, [runtime.run(batch) for batch in batches])
        row = Parity(
            runtime.words,
            sum(map(len, batches)),
            absolute,
            relative,
            noise=not recorder.batches,
        )
        if theirs.people:
            ours = Estimator(network, loader=loader, loaded=Loaded(spec, runtime))
            row = _with_keypoints(row, theirs.people, theirs.asked_again(ours))
        rows.append(row)
    return rows


def crops_of(network: "Network", photos: Sequence[Path]) -> tuple[list[Batch], bool]:
    """What a network is fed with for photographs, and whether it is noise: as in `measure`."""
    recorder = _Recorder(TorchRuntime(network, network.spec))
    loader = Loader(choose("torch"))
    estimator = Estimator(network, loader=loader, loaded=Loaded(network.spec, recorder))
    _Answers(estimator, [read_image(photo) for photo in photos])
    return recorder.batches or [_noise(network.spec.input_size)], not recorder.batches


class _Recorder:
    """A runtime that remembers what it was asked."""

    def __init__(self, inner: Runtime) -> None:
        self.inner = inner
        self.streams = inner.streams
        self.words = inner.words
        self.batches: list[Batch] = []

    def run(self, batch: Batch) -> Maps:
        self.batches.append(batch)
        return self.inner.run(batch)


class _Answers:
    """Everybody in each photograph; a pose network is asked again about the same boxes."""

    def __init__(self, estimator: Estimator, images: Sequence[Image]) -> None:
        self._images = images
        self._boxes: list[list[tuple[float, float, float, float]] | None] = []
        self.people: list[list[Person]] = []
        task = estimator.spec.task
        for image in images:
            if task == "classify":
                estimator.classify(image)
            elif task == "segment":
                estimator.segment(image)
            else:
                people = estimator.predict(image, threshold=0.0)
                boxes = [person.box_xywh for person in people]
                self._boxes.append(boxes if task == "pose" else None)
                if task == "pose":
                    people = estimator.predict(image, boxes, threshold=0.0)
                self.people.append(people)

    def asked_again(self, estimator: Estimator) -> list[list[Person]]:
        return [
            estimator.predict(image, boxes, threshold=0.0)
            for image, boxes in zip(self._images, self._boxes, strict=True)
        ]


def _noise(size: tuple[int, int]) -> Batch:
    return np.random.default_rng(0).integers(0, 256, (NOISE_IMAGES, *size, 3), np.uint8)


def _differences(wanted: Sequence[Maps], found: Sequence[Maps]) -> tuple[float, float]:
    """The largest absolute difference, and the largest over its map's range."""
    absolute = relative = 0.0
    for a, b in zip(wanted, found, strict=True):
        for name, values in a.items():
            # What is no number is as far off as can be; `max` would pass it over.
            worst = float(np.nan_to_num(np.abs(values - b[name]), nan=np.inf).max())
            absolute = max(absolute, worst)
            relative = max(relative, worst / max(float(np.nan_to_num(np.ptp(values))), 1e-9))
    return absolute, relative


def _with_keypoints(
    row: Parity, wanted: Sequence[Sequence[Person]], found: Sequence[Sequence[Person]]
) -> Parity:
    distances, sure = [], []
    for theirs, ours in zip(wanted, found, strict=True):
        for person in theirs:
            # Nearest, not same place in the list: two people of nearly one score may change places.
            away = min((_distances(person, other) for other in ours), key=np.median, default=None)
            if away is not None:
                distances.append(away)
                sure.append(away[person.keypoints[:, 2] >= SURE])
    if not distances:
        return row
    all_sure = np.concatenate(sure)
    return replace(
        row,
        keypoints=sum(map(len, distances)),
        pixels=float(np.max(distances)),
        sure_pixels=float(all_sure.max()) if all_sure.size else None,
    )


def _distances(a: Person, b: Person) -> FloatArray:
    return np.asarray(np.linalg.norm(a.keypoints[:, :2] - b.keypoints[:, :2], axis=1))
