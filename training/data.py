"""COCO keypoint files -> samples: who is trained on, with which box, and how sure each label is.

Only the index is held in memory; photographs are read when a sample is drawn. As in the official
code crowds, people without labelled keypoints and boxes without area are left out, and boxes are
clipped to their photograph.
"""

import logging
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset, Sampler

from heads.codec import HeatmapCodec
from heads.geometry import Size, clip_box
from heads.image import Image, read_image
from heads.skeleton import Skeleton
from models.errors import SpecError
from training.annotations import is_of, read_coco
from training.augment import Augmentation
from training.doctor import examine
from training.errors import DataError
from training.findings import Sound

FloatArray = npt.NDArray[np.float32]
T = TypeVar("T")

SHOWN_ERRORS = 3

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sample:
    """One person to train on.

    image_size: (height, width) of the photograph that the labels are of.
    keypoints: [K, 2] pixels of it.  weights: [K], 0 not labelled to 1 sure.
    """

    path: Path
    image_size: Size
    box_xywh: tuple[float, float, float, float]
    keypoints: FloatArray
    weights: FloatArray
    source: str


def look_through(annotations: Path, images: Path, skip_bad: bool) -> Sound | None:
    """Refuses a keypoint data set with errors before hours are spent on it.

    skip_bad: what to read all the same, where there are errors. Photographs are not opened.
    Raises DataError, which counts the errors and shows the first ones.
    """
    data = examine(annotations, images, pixels=False)
    if "flip_pairs" in data.report.category and data.report.flip_pairs:
        log.warning(
            "%s: %s look like mirror pairs, but not all are swapped in a mirrored photograph; "
            "write flip_pairs into the category as hrpose data check shows it, [] for none",
            annotations.name,
            ", ".join(map(" and ".join, data.report.flip_pairs)),
        )
    for finding in data.report.findings:
        if finding.kind == "categories":  # the others would be missed without a word
            log.warning("%s: %s", annotations.name, finding.reason)
    errors = data.report.errors
    if not errors:
        return None
    remain = data.report.people > 0
    if not (skip_bad and remain):
        shown = "; ".join(str(error) for error in errors[:SHOWN_ERRORS])
        more = len(errors) - SHOWN_ERRORS
        command = f"hrpose data check {shlex.join([str(annotations), '--images', str(images)])}"
        raise DataError(
            f"{annotations.name} has {len(errors)} error{'s' * (len(errors) > 1)}: {shown}"
            f"{f'; and {more} more' * (more > 0)}. `{command}` shows them"
            f"{'; data.skip_bad = true leaves them out' * remain}"
        )
    log.warning("%s: left out by data.skip_bad for errors: %d", annotations.name, len(errors))
    images_read = frozenset(data.files) - data.report.bad_images
    return Sound(images_read, data.report.bad_annotations)


def read_samples(
    annotations: Path, images: Path, sound: Sound | None = None
) -> tuple[list[Sample], Skeleton]:
    """People of a COCO keypoint file, and what their keypoints are called.

    sound: what of the file is read; None: everything.
    Fields beside COCO's that count: `primary` 0 (not trained on), `scores` (how sure a label is, 1
    for people's own), `source` (of the annotation). Raises DataError with the entry's id.
    """
    content, category, skeleton = read_keypoints(annotations, sound)
    try:
        files = {
            image["id"]: (image["file_name"], (image["height"], image["width"]))
            for image in content["images"]
        }
    except (KeyError, TypeError) as error:
        raise DataError(f"{annotations.name}: an image cannot be read: {error!r}") from error
    samples = []
    for entry in content["annotations"]:
        if not isinstance(entry, dict):
            raise DataError(f"{annotations.name}: an annotation has no fields: {entry!r}")
        if not is_of(entry, category.get("id")):
            continue
        unlabelled = entry.get("num_keypoints") == 0 or not entry.get("keypoints")
        if entry.get("iscrowd") or unlabelled or not entry.get("primary", 1):
            continue
        sample = _sample(annotations.name, entry, files, images, len(skeleton.keypoints))
        if sample.weights.any() and min(sample.box_xywh[2:]) > 1:
            samples.append(sample)
    if not samples:
        raise DataError(f"{annotations.name} has nobody to train on")
    return samples, skeleton


def read_together(
    files: Iterable[tuple[Path, Path]],
    read: Callable[[Path, Path, Sound | None], tuple[list[T], Skeleton]],
    skip_bad: bool,
) -> tuple[list[T], Skeleton]:
    """What `read` makes of keypoint files, each with its folder of images, one after another.

    Each is looked through first, see `look_through`. Raises DataError for keypoints, flip pairs or
    sigmas other than the first file's.
    """
    (first, folder), *others = files
    samples, skeleton = read(first, folder, look_through(first, folder, skip_bad))
    for annotations, images in others:
        more, its = read(annotations, images, look_through(annotations, images, skip_bad))
        for what in ("keypoints", "flip_pairs", "sigmas"):
            if getattr(its, what) != getattr(skeleton, what):
                named = what.replace("_", " ")
                raise DataError(f"{annotations.name} has other {named} than {first.name}")
        samples = samples + more
    return samples, skeleton


def read_keypoints(
    annotations: Path, sound: Sound | None
) -> tuple[Mapping[str, Any], Mapping[str, Any], Skeleton]:
    """A COCO keypoint file's content, its first category with keypoints, and what those are.

    sound: what of the file is read; None: everything. Raises DataError.
    """
    content = read_coco(annotations)
    content = content if sound is None else sound.part_of(content)
    categories = (c for c in content["categories"] if isinstance(c, dict) and c.get("keypoints"))
    category = next(categories, None)
    if category is None:
        raise DataError(f"{annotations.name}: no category has keypoints")
    try:
        return content, category, Skeleton.from_coco_category(category)
    except SpecError as error:
        raise DataError(f"{annotations.name}: {error}") from error


def _sample(
    name: str,
    entry: Mapping[str, Any],
    files: Mapping[int, tuple[str, Size]],
    images: Path,
    count: int,
) -> Sample:
    where = f"{name}, annotation {entry.get('id')}"
    try:
        keypoints = np.array(entry["keypoints"], np.float32).reshape(count, 3)
        file_name, image_size = files[entry["image_id"]]
        box = clip_box(entry["bbox"], image_size)
        sure = np.array(entry.get("scores", [1.0] * count), np.float32)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{where} cannot be read: {error!r}") from error
    finite = np.isfinite(keypoints).all() and np.isfinite(sure).all()
    if sure.shape != (count,) or not finite:
        raise DataError(f"{where} needs {count} finite keypoints and as many scores")
    if not np.isfinite(np.array(entry["bbox"], np.float64)).all():
        raise DataError(f"{where} needs a finite box; got {entry['bbox']}")
    weights = sure.clip(0, 1) * (keypoints[:, 2] > 0)
    source = str(entry.get("source", ""))
    return Sample(images / file_name, image_size, box, keypoints[:, :2], weights, source)


def read_labelled(path: Path, size: Size) -> Image:
    """A photograph; DataError where it has another size (height, width) than its labels are for."""
    image = read_image(path)
    if image.shape[:2] != size:
        raise DataError(
            f"{path.name} is {image.shape[1]} x {image.shape[0]} pixels, its labels are of "
            f"{size[1]} x {size[0]}"
        )
    return image


def check_images(samples: Iterable[Sample]) -> None:
    """DataError with the first names where photographs are missing, before hours are spent."""
    missing = sorted({s.path.name for s in samples if not s.path.is_file()})
    if missing:
        names = ", ".join(missing[:5])
        raise DataError(f"{len(missing)} photographs are missing: {names}")


class PoseDataset(Dataset[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]):
    """Crops, target heatmaps and weights of samples, each drawn with its own random numbers.

    An item is asked for as (index, seed), so that the same epoch gives the same crops whichever
    process makes them, and after a resume.
    """

    def __init__(
        self, samples: list[Sample], codec: HeatmapCodec, augmentation: Augmentation
    ) -> None:
        self._samples = samples
        self._codec = codec
        self._augmentation = augmentation

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, key: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Image uint8 [H, W, 3], heatmaps float32 [K, h, w], weights float32 [K]."""
        index, seed = key
        sample = self._samples[index]
        crop, points, weights = self._augmentation.apply(
            read_labelled(sample.path, sample.image_size),
            sample.box_xywh,
            sample.keypoints,
            sample.weights,
            np.random.default_rng(seed),
        )
        heatmaps, inside = self._codec.encode(points, weights)
        return (
            torch.from_numpy(crop),
            torch.from_numpy(heatmaps),
            torch.from_numpy(weights * inside),
        )


class EpochSampler(Sampler[tuple[int, int]]):
    """(index, seed) of an epoch's samples; the same for the same seed and epoch.

    chances: [samples], how likely each is drawn, relatively.
    count: so many are drawn; 0: each sample once, in random order.
    batch, rank, workers: of workers processes each takes its turn of batch samples, so that a step
        of all of them sees what one process sees with workers times the batch; what does not share
        out evenly at the end of an epoch is left out, and a last batch of one sample, which some
        batch norms cannot learn from.
    skip: so many samples from the start are left out (a resume in the middle of an epoch).
    """

    def __init__(
        self,
        chances: FloatArray,
        count: int,
        seed: int,
        batch: int = 1,
        rank: int = 0,
        workers: int = 1,
    ) -> None:
        self._chances = chances / chances.sum()
        self._each_once = count == 0
        self._count = count or len(chances)
        if self._count < workers:
            raise DataError(f"{workers} processes cannot share an epoch of {self._count} samples")
        self._seed = seed
        self._batch, self._rank, self._workers = batch, rank, workers
        self.epoch = 0
        self.skip = 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rng = np.random.default_rng((self._seed, self.epoch))
        if self._each_once:
            drawn = rng.permutation(self._count)
        else:
            drawn = rng.choice(len(self._chances), self._count, p=self._chances)
        seeds = rng.integers(0, 2**62, self._count)
        pairs = list(zip(drawn.tolist(), seeds.tolist(), strict=True))
        for start, each in self._turns():
            first = start + self._rank * each
            yield from pairs[first : first + each]

    def __len__(self) -> int:
        # An epoch's last batch may be smaller than the others, which a skip counts as whole.
        return sum(each for _, each in self._turns())

    def _turns(self) -> Iterator[tuple[int, int]]:
        """Where each step of all processes starts, and how many samples each of them takes."""
        together = self._batch * self._workers
        for start in range(self.skip, self._count, together):
            each = min(together, self._count - start) // self._workers
            if each > 1 or self._batch == 1 or start == 0:
                yield start, each


def chances_of(samples: list[Sample], by_source: Mapping[str, float]) -> FloatArray:
    """How likely each sample is drawn, relatively: by its source, 1 where none is named.

    DataError for a source that no sample is of.
    """
    sources = {sample.source for sample in samples}
    if unknown := sorted(set(by_source) - sources):
        raise DataError(
            f"data.weights name {', '.join(unknown)}; the samples are of "
            f"{', '.join(sorted(sources - {''})) or 'no named source'}"
        )
    return np.array([by_source.get(sample.source, 1.0) for sample in samples], np.float32)
