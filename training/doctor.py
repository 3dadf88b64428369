"""A doctor for keypoint data sets: what is wrong with them, what is in them, what to set.

    report = problems(Path("train.json"), Path("images"))
    report.errors           # training would fail, or learn nonsense, on these
    report.bad_annotations  # ids to leave out where one trains all the same; and bad_images

Left and right are held against each other: two pairs of the trunk that point against each other, or
a face that goes round the wrong way. For COCO's people these rules are known; for other bodies they
are learned from the data set, as far as nearly everybody in it follows them. A pair counts where it
is longer than its labels are exact (by the sigmas). Measured on COCO's own labels in the project's
data (1017 people, train and val):

- as they are 9 are reported (0.9 %; none of the 160 in val), heads turned far round among them;
- with all sides swapped 92 % of 660 people with nose, eye, and second eye or ear; 66 % of all 797
  with two pairs: without a face one cannot tell a back from a front;
- with all but the face swapped 99 % of 448; eyes alone 99 %, ears 99 %, elbows 95 %, shoulders
  92 %, hips 87 %; knees, ankles and wrists cross, so nothing is said about them.

Copies are of people who are not reported as they are, and one pair is swapped where two of the
trunk are labelled. How long a pair must be and how high a face (SURE_LENGTH, SURE_HEIGHT) were
chosen from five settings tried on these same people, so other data may do a little worse.
Of 10510 people whose faces a network labelled 5.1 % are reported: among 31 looked at, many have a
face put on a head seen from behind.
"""

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, computed_field

from heads.draw import draw_people, grid, label
from heads.errors import ImageError
from heads.geometry import Crop
from heads.image import Image, read_image, warp
from heads.person import Person
from heads.skeleton import COCO_17, DEFAULT_SIGMA, Skeleton
from models.errors import SpecError
from training.errors import DataError
from training.formats import is_yolo, read_yolo

FloatArray = npt.NDArray[np.float64]
Level = Literal["error", "warning"]

Kind = Literal[
    "nobody", "label-file", "entry", "duplicate-id", "unknown-image", "missing-image",
    "unreadable-image", "image-size", "keypoints-length", "not-finite", "visibility", "scores",
    "box", "box-outside", "keypoint-outside", "same-person", "sides-swapped",
    "box-misses-keypoints", "box-clipped", "num-keypoints", "categories",
]  # fmt: skip
"""Everything that can be wrong; the worst first, which is the order of the contact sheet."""

SLACK_PX = 1.0
"""A keypoint may lie so far outside its image: labels are rounded, some to the image's edge."""
SLACK_SHARE = 0.02
"""Outside by this share of the box's longer side, a keypoint or a box is no error yet."""
BOX_MARGIN = 0.10
"""A box may miss its keypoints by this share of its longer side."""
SAME_OKS = 0.95
REPEATED_OKS, REPEATED_IOU, REPEATED_LEAST = 0.5, 0.7, 20
"""Two labels of one person, from which sigmas are measured where there are so many a keypoint."""
SURE_LENGTH = 1.5
"""A pair tells left from right where it is so many spreads of its labels long."""
SURE_COSINE = 0.5
SURE_HEIGHT = 1.0
"""Three points tell one way round from the other where their triangle is so many spreads high."""
LEARN_LEAST, LEARN_SHARE = 50, 0.95
"""A rule of sides is learned from so many people, of whom so many agree."""
BOX_AREA_SHARE = 0.53
"""A person's area where only the box is known (as in ultralytics' evaluation of poses)."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Finding(_Frozen):
    """One thing that is wrong. image, annotation: ids as they stand in the file."""

    level: Level
    kind: Kind
    reason: str
    file: str = ""
    image: Any = None
    annotation: Any = None


class KeypointCount(_Frozen):
    """How often a keypoint is labelled (visible and hidden), and how exactly: see `sigma_from`."""

    name: str
    labelled: int
    visible: int
    hidden: int
    sigma: float
    sigma_from: str


class Report(_Frozen):
    """What a data set is like.

    people: with labelled keypoints.  unlabelled: without.  images_without: that show nobody.
    flip_pairs: names that change places in a mirror.  flip_pairs_from: how they were found.
    """

    data: str
    images: int
    images_without: int
    people: int
    unlabelled: int
    crowds: int
    keypoints: tuple[KeypointCount, ...]
    flip_pairs: tuple[tuple[str, str], ...]
    flip_pairs_from: str
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """What training must not be started with."""
        return tuple(f for f in self.findings if f.level == "error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """What somebody should look at."""
        return tuple(f for f in self.findings if f.level == "warning")

    @property
    def bad_annotations(self) -> frozenset[Any]:
        """Annotations to leave out for errors of their own; see bad_images for the others."""
        return frozenset(f.annotation for f in self.errors if f.annotation is not None)

    @property
    def bad_images(self) -> frozenset[Any]:
        """Images to leave out, with everybody in them."""
        return frozenset(
            f.image for f in self.errors if f.annotation is None and f.image is not None
        )

    @computed_field  # type: ignore[prop-decorator]
    @property
    def counts(self) -> dict[str, int]:
        """How many findings of each kind."""
        return dict(Counter(f.kind for f in self.findings).most_common())


def problems(annotations: Path, images: Path | None = None, *, pixels: bool = True) -> Report:
    """Looks through a COCO keypoint file, or the data.yaml of a YOLO-pose folder, and its images.

    images: their folder; left out, that of the file.  pixels: False looks only whether images are
    there, which is quick. Images are read one at a time.
    Raises DataError where there is nothing to look through.
    """
    return examine(annotations, images, pixels=pixels).report


def sheet(data: "Examined", tiles: int = 48, seed: int = 0) -> Image:
    """A picture of drawn people: the worst findings first, one of each kind in turn, then others.

    Returns RGB uint8; a tile is of TILE pixels, with its finding and the annotation's id. The
    number at a box is the share of keypoints with a label.
    """
    found = _in_turn(data.report.findings)
    shown = [(f, data.people.get(f.annotation)) for f in found][:tiles]
    taken = {f.annotation for f, _ in shown}
    labelled = [person for person in data.people.values() if person.labelled.any()]
    others = [person for person in labelled if person.id not in taken]
    rng = np.random.default_rng(seed)
    free = min(len(others), tiles - len(shown))
    picked: Iterable[int] = rng.choice(len(others), free, replace=False) if free else []
    drawn = [_tile(data, person, finding) for finding, person in shown]
    drawn += [_tile(data, others[i], None) for i in picked]
    if not drawn:
        raise DataError(f"{data.report.data} has nobody to draw")
    return grid(drawn, 8)


@dataclass(frozen=True)
class Labelled:
    """One person as far as it can be read: keypoints [K, 3], area in square pixels."""

    id: Any
    image: Any
    keypoints: FloatArray
    box_xywh: tuple[float, float, float, float]
    area: float

    @property
    def labelled(self) -> npt.NDArray[np.bool_]:
        """[K], which keypoints have a label."""
        return np.asarray(self.keypoints[:, 2] > 0, np.bool_)


@dataclass(frozen=True)
class Examined:
    """A data set that was looked through: the report, and what a contact sheet is drawn from."""

    report: Report
    skeleton: Skeleton
    folder: Path
    files: Mapping[Any, str]
    people: Mapping[Any, Labelled]


@dataclass
class _Findings:
    """Collects findings; knows the names of images."""

    names: dict[Any, str] = field(default_factory=dict)
    found: list[Finding] = field(default_factory=list)

    def add(
        self, level: Level, kind: Kind, reason: str, image: Any = None, annotation: Any = None
    ) -> None:
        file = self.names.get(image, "") if _hashable(image) else ""
        self.found.append(
            Finding(
                level=level, kind=kind, reason=reason, file=file, image=image, annotation=annotation
            )
        )


def examine(annotations: Path, images: Path | None = None, *, pixels: bool = True) -> Examined:
    """As `problems`, with the people for a contact sheet."""
    findings = _Findings()
    if is_yolo(annotations):
        bad: list[DataError] = []
        content, folder = read_yolo(annotations, bad=bad)
        for error in bad:
            findings.add("error", "label-file", str(error))
    else:
        content, folder = _read_coco(annotations), images or annotations.parent
    category, skeleton = _skeleton(annotations.name, content, findings)
    sizes = _check_images(content["images"], folder, pixels, findings)
    entries = [e for e in content["annotations"] if _is_of(e, category)]
    people, crowds = _check_entries(entries, sizes, skeleton, findings)
    _check_same(people, skeleton, findings)
    for person, reason in swapped_sides(people, skeleton):
        findings.add("warning", "sides-swapped", reason, person.image, person.id)
    labelled = [person for person in people if person.labelled.any()]
    if not labelled:
        findings.add("error", "nobody", "nobody has a labelled keypoint")
    shown = {person.image for person in people}
    pairs, pairs_from = flip_pairs(skeleton, labelled)
    report = Report(
        data=annotations.name,
        images=len(content["images"]),
        images_without=sum(image not in shown for image in sizes),
        people=len(labelled),
        unlabelled=len(people) - len(labelled),
        crowds=crowds,
        keypoints=_count(labelled, skeleton),
        flip_pairs=pairs,
        flip_pairs_from=pairs_from,
        findings=tuple(sorted(findings.found, key=_how_bad)),
    )
    return Examined(report, skeleton, folder, findings.names, {p.id: p for p in people})


def _how_bad(finding: Finding) -> tuple[bool, int]:
    kinds: tuple[str, ...] = Kind.__args__  # type: ignore[attr-defined]
    return (finding.level == "warning", kinds.index(finding.kind))


def _read_coco(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path.name} is no COCO keypoint file: {error}") from error
    for part in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(part), list):
            raise DataError(f"{path.name} is no COCO keypoint file: it has no list {part!r}")
    whole: dict[str, Any] = content
    return whole


def _skeleton(
    name: str, content: Mapping[str, Any], findings: _Findings
) -> tuple[Mapping[str, Any], Skeleton]:
    """The category that training reads, which is the first with keypoints."""
    categories = [c for c in content["categories"] if isinstance(c, dict) and c.get("keypoints")]
    if not categories:
        raise DataError(f"{name} has no category with keypoints")
    if len(categories) > 1:
        others = ", ".join(str(c.get("name")) for c in categories[1:])
        findings.add(
            "warning", "categories", f"only {categories[0].get('name')} is read, not {others}"
        )
    try:
        return categories[0], Skeleton.from_coco_category(categories[0])
    except (SpecError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{name}: {error}") from error


def _is_of(entry: Any, category: Mapping[str, Any]) -> bool:
    mine = category.get("id")
    return not isinstance(entry, dict) or entry.get("category_id", mine) == mine


def _hashable(value: Any) -> bool:
    return isinstance(value, int | str)


def _check_images(
    images: Sequence[Any], folder: Path, pixels: bool, findings: _Findings
) -> dict[Any, tuple[int, int]]:
    """Image ids and their sizes (height, width), of images whose entry can be read."""
    sizes: dict[Any, tuple[int, int]] = {}
    for place, entry in enumerate(images):
        try:
            key, name = entry["id"], str(entry["file_name"])
            height, width = int(entry["height"]), int(entry["width"])
        except (KeyError, TypeError, ValueError) as error:
            reason = f"image {place} of the list needs id, file_name, height, width: {error!r}"
            findings.add("error", "entry", reason)
            continue
        if not _hashable(key):
            findings.add("error", "entry", f"image {place} of the list has the id {key!r}")
            continue
        if key in sizes:
            reason = f"{name} has the id of {findings.names[key]}"
            findings.add("error", "duplicate-id", reason, key)
            continue
        findings.names[key], sizes[key] = name, (height, width)
        path = folder / name
        if not path.is_file():
            findings.add("error", "missing-image", f"is not in {folder.name}", key)
        elif pixels:
            _check_pixels(path, key, (height, width), findings)
    return sizes


def _check_pixels(path: Path, key: Any, size: tuple[int, int], findings: _Findings) -> None:
    try:
        real = read_image(path).shape[:2]
    except ImageError as error:
        reason = str(error).removeprefix(f"{path.name}: ")
        findings.add("error", "unreadable-image", reason, key)
        return
    if real != size:
        turned = "; the labels are of the photograph before EXIF turned it" * (real == size[::-1])
        reason = f"is {real[1]} x {real[0]} pixels, annotated as {size[1]} x {size[0]}{turned}"
        findings.add("error", "image-size", reason, key)


def _check_entries(
    entries: Sequence[Any],
    sizes: Mapping[Any, tuple[int, int]],
    skeleton: Skeleton,
    findings: _Findings,
) -> tuple[list[Labelled], int]:
    """People whose entries can be read, and how many crowds there are."""
    people: list[Labelled] = []
    seen: set[Any] = set()
    crowds = 0
    for place, entry in enumerate(entries):
        if not isinstance(entry, dict) or not _hashable(entry.get("id")):
            findings.add("error", "entry", f"annotation {place} of the list has no fields or id")
            continue
        key, image = entry["id"], entry.get("image_id")
        if key in seen:
            findings.add("error", "duplicate-id", "the id stands more than once", image, key)
            continue
        seen.add(key)
        if not _hashable(image) or image not in sizes:
            findings.add("error", "unknown-image", f"is of image {image!r}", image, key)
        elif entry.get("iscrowd"):
            crowds += 1
        elif person := _check_person(entry, sizes[image], skeleton, findings):
            people.append(person)
    return people, crowds


def _check_person(
    entry: Mapping[str, Any], size: tuple[int, int], skeleton: Skeleton, findings: _Findings
) -> Labelled | None:
    """The person, where everything about it can be read; None where not."""
    key, image = entry["id"], entry["image_id"]
    count = len(skeleton.keypoints)
    box = _numbers(entry.get("bbox"))
    values = _numbers(entry.get("keypoints", []))
    claimed = entry.get("num_keypoints")
    if values is not None and not len(values) and not claimed:
        values = np.zeros(3 * count)  # COCO: a person without labels may have none at all
    if values is None or len(values) != 3 * count:
        length = "no list of numbers" if values is None else f"{len(values)} numbers"
        reason = f"{count} keypoints are {3 * count} numbers; got {length}"
        findings.add("error", "keypoints-length", reason, image, key)
        return None
    if not np.isfinite(values).all():
        findings.add("error", "not-finite", "a keypoint is not finite", image, key)
        return None
    keypoints = values.reshape(count, 3)
    if strange := sorted(set(keypoints[:, 2].tolist()) - {0.0, 1.0, 2.0}):
        reason = f"visibility is 0, 1 or 2; got {', '.join(f'{v:g}' for v in strange[:3])}"
        findings.add("error", "visibility", reason, image, key)
        return None
    labelled = int((keypoints[:, 2] > 0).sum())
    _check_count(claimed, labelled, image, key, findings)
    _check_scores(entry, count, findings)
    if box is None or len(box) != 4:
        reason = f"a box is 4 numbers; got {entry.get('bbox')!r}"
        findings.add("error", "box", reason, image, key)
        return None
    if not np.isfinite(box).all():
        findings.add("error", "not-finite", "the box is not finite", image, key)
        return None
    if labelled and not _check_box(box, size, image, key, findings):
        return None
    _check_places(keypoints, box, size, skeleton, (image, key), findings)
    left, top, width, height = box.tolist()
    area = _numbers([entry.get("area")])
    known = area is not None and math.isfinite(area[0]) and area[0] > 0
    size_px = float(area[0]) if known and area is not None else BOX_AREA_SHARE * width * height
    return Labelled(key, image, keypoints, (left, top, width, height), size_px)


def _numbers(values: Any) -> FloatArray | None:
    """A flat list as numbers; None for anything else."""
    if not isinstance(values, list) or not all(isinstance(v, int | float) for v in values):
        return None
    return np.array(values, np.float64)


def _check_count(claimed: Any, labelled: int, image: Any, key: Any, findings: _Findings) -> None:
    if claimed is None and labelled:
        reason = f"num_keypoints is missing: training leaves out the {labelled} labels"
        findings.add("warning", "num-keypoints", reason, image, key)
    elif claimed is not None and claimed != labelled:
        reason = f"num_keypoints is {claimed}, labelled are {labelled}"
        findings.add("warning", "num-keypoints", reason, image, key)


def _check_scores(entry: Mapping[str, Any], count: int, findings: _Findings) -> None:
    """How sure each label is, a field of this project's."""
    scores = _numbers(entry.get("scores", [1.0] * count))
    if scores is None or len(scores) != count or not np.isfinite(scores).all():
        reason = f"scores are {count} finite numbers, where there are any"
        findings.add("error", "scores", reason, entry["image_id"], entry["id"])


def _check_box(
    box: FloatArray, size: tuple[int, int], image: Any, key: Any, findings: _Findings
) -> bool:
    left, top, width, height = box.tolist()
    if width <= 1 or height <= 1:
        reason = f"the box is {width:g} x {height:g} pixels"
        findings.add("error", "box", reason, image, key)
        return False
    outside = (-left, -top, left + width - size[1], top + height - size[0])
    sides = (width, height, width, height)
    if any(out >= side - 1 for out, side in zip(outside, sides, strict=True)):
        reason = f"the box {_shown(box)} lies outside the image of {size[1]} x {size[0]}"
        findings.add("error", "box-outside", reason, image, key)
        return False
    if max(outside) > max(SLACK_PX, SLACK_SHARE * max(width, height)):
        reason = f"the box leaves the image by {max(outside):.1f} pixels; training clips it"
        findings.add("warning", "box-clipped", reason, image, key)
    return True


def _check_places(
    keypoints: FloatArray,
    box: FloatArray,
    size: tuple[int, int],
    skeleton: Skeleton,
    ids: tuple[Any, Any],
    findings: _Findings,
) -> None:
    """Keypoints outside their image, and outside their box."""
    labelled = keypoints[:, 2] > 0
    longer = float(box[2:].max())
    first, last = np.zeros(2), np.array([size[1] - 1.0, size[0] - 1.0])
    outside = _beyond(keypoints[:, :2], first, last) * labelled
    worst = int(outside.argmax())
    if outside[worst] > SLACK_PX:
        level: Level = (
            "error" if outside[worst] > max(SLACK_PX, SLACK_SHARE * longer) else "warning"
        )
        reason = (
            f"{skeleton.keypoints[worst]} at {_shown(keypoints[worst, :2])} lies outside the image "
            f"of {size[1]} x {size[0]}{_others(outside > SLACK_PX)}"
        )
        findings.add(level, "keypoint-outside", reason, *ids)
        return
    missed = _beyond(keypoints[:, :2], box[:2], box[:2] + box[2:]) * labelled
    worst = int(missed.argmax())
    if missed[worst] > BOX_MARGIN * longer + SLACK_PX:
        reason = (
            f"{skeleton.keypoints[worst]} lies {missed[worst]:.1f} pixels outside the box "
            f"{_shown(box)}{_others(missed > BOX_MARGIN * longer + SLACK_PX)}"
        )
        findings.add("warning", "box-misses-keypoints", reason, *ids)


def _beyond(points: FloatArray, low: FloatArray, high: FloatArray) -> FloatArray:
    """[K], by how much points [K, 2] lie beyond a rectangle on its worst side; 0 within."""
    beyond = np.maximum(low - points, points - high).max(axis=1)
    return np.asarray(np.maximum(beyond, 0.0))


def _others(which: npt.NDArray[np.bool_]) -> str:
    more = int(which.sum()) - 1
    return f", and {more} more" if more else ""


def _shown(values: FloatArray) -> str:
    return f"({', '.join(f'{v:g}' for v in values.round(1).tolist())})"


def _by_image(people: Sequence[Labelled]) -> Iterator[tuple[Labelled, Labelled]]:
    """Every two people with labels in one image."""
    groups: dict[Any, list[Labelled]] = defaultdict(list)
    for person in people:
        if person.labelled.any():
            groups[person.image].append(person)
    for group in groups.values():
        yield from combinations(group, 2)


def _check_same(people: Sequence[Labelled], skeleton: Skeleton, findings: _Findings) -> None:
    for a, b in _by_image(people):
        likeness = _oks(a, b, skeleton)
        if likeness >= SAME_OKS:
            reason = f"is the same person as annotation {a.id} (OKS {likeness:.2f})"
            findings.add("warning", "same-person", reason, b.image, b.id)


def _oks(a: Labelled, b: Labelled, skeleton: Skeleton) -> float:
    """Likeness of two labels over what both have; 0 where that is less than half of either."""
    both = a.labelled & b.labelled
    if 2 * both.sum() < max(a.labelled.sum(), b.labelled.sum()) or not both.any():
        return 0.0
    squared = ((a.keypoints[:, :2] - b.keypoints[:, :2]) ** 2).sum(axis=1)
    spread = 2 * (2 * np.array(skeleton.sigmas)) ** 2 * max(a.area + b.area, 1e-9) / 2
    return float(np.exp(-squared / spread)[both].mean())


def _count(people: Sequence[Labelled], skeleton: Skeleton) -> tuple[KeypointCount, ...]:
    count = len(skeleton.keypoints)
    seen = np.zeros((3, count), np.int64)
    for person in people:
        for visibility in (1, 2):
            seen[visibility] += person.keypoints[:, 2] == visibility
    measured = _measured_sigmas(people, skeleton)
    return tuple(
        KeypointCount(
            name=name,
            labelled=int(seen[1, k] + seen[2, k]),
            visible=int(seen[2, k]),
            hidden=int(seen[1, k]),
            sigma=round(sigma, 4),
            sigma_from=source,
        )
        for k, name in enumerate(skeleton.keypoints)
        for sigma, source in [measured.get(k) or _sigma_by_name(name)]
    )


def _sigma_by_name(name: str) -> tuple[float, str]:
    known = "_".join(_words(name))
    if known in COCO_17.keypoints:
        return COCO_17.sigmas[COCO_17.keypoints.index(known)], "COCO's of this name"
    reason = "default, between COCO's eyes and shoulders: nobody is labelled twice"
    return DEFAULT_SIGMA, reason


def _measured_sigmas(
    people: Sequence[Labelled], skeleton: Skeleton
) -> dict[int, tuple[float, str]]:
    """Spread of labels where people are labelled twice, as a share of the root of their area.

    As COCO's: the root of the mean of d**2 / area, d from the true place. Two labels of one place
    lie d1 - d2 apart, whose square is twice as large on average.
    """
    shares: dict[int, list[float]] = defaultdict(list)
    for a, b in _by_image(people):
        apart = np.linalg.norm(a.keypoints[:, :2] - b.keypoints[:, :2], axis=1)
        both = a.labelled & b.labelled
        copied = not (apart * both > 0.01).any()
        if copied or _iou(a, b) < REPEATED_IOU or _oks(a, b, skeleton) < REPEATED_OKS:
            continue
        for k in np.flatnonzero(both).tolist():
            shares[k].append(float(apart[k] ** 2 / (a.area + b.area)))
    return {
        k: (max(math.sqrt(np.mean(values)), 1e-3), f"{len(values)} people labelled twice")
        for k, values in shares.items()
        if len(values) >= REPEATED_LEAST
    }


def _iou(a: Labelled, b: Labelled) -> float:
    boxes = np.array([a.box_xywh, b.box_xywh])
    ends = boxes[:, :2] + boxes[:, 2:]
    sides = np.maximum(ends.min(axis=0) - boxes[:, :2].max(axis=0), 0.0)
    shared = float(sides.prod())
    return shared / max(float(boxes[:, 2:].prod(axis=1).sum()) - shared, 1e-9)


_OTHER = {"left": "right", "right": "left"}
_SHORT = {"l": "left", "r": "right"}


def _words(name: str) -> list[str]:
    """`L_Eye`, `leftEye`, `left-eye`, `eye_l` -> words, with l and r written out."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=^[LR])(?=[A-Z][a-z])", "_", name)
    words = [word.lower() for word in re.split(r"[^A-Za-z0-9]+", spaced) if word]
    return [_SHORT.get(word, word) for word in words]


def flip_pairs(
    skeleton: Skeleton, people: Sequence[Labelled]
) -> tuple[tuple[tuple[str, str], ...], str]:
    """Names that probably change places in a mirror, left first, and how they were found."""
    names = skeleton.keypoints
    by_words = {tuple(_words(name)): name for name in names}
    pairs = []
    for words, name in by_words.items():
        partner = by_words.get(tuple(_OTHER.get(word, word) for word in words))
        if partner is not None and partner != name and "left" in words:
            pairs.append((name, partner))
    if pairs:
        known = {frozenset((names[a], names[b])) for a, b in skeleton.flip_pairs}
        if known != {frozenset(pair) for pair in pairs}:
            return tuple(pairs), "names; training finds only left_x with right_x: rename them"
        return tuple(pairs), "names"
    pairs = [(names[a], names[b]) for a, b in _mirrored(people, len(names))]
    if pairs:
        return tuple(
            pairs
        ), "the data is symmetric; name them left_x and right_x to train with them"
    return (), "none: no names with left and right, and no symmetry"


def _mirrored(people: Sequence[Labelled], count: int) -> list[tuple[int, int]]:
    """Keypoints whose mean places in the box are each other's mirror image; right side first.

    What lies on the viewer's right comes first, as the left of a body that faces us does.
    """
    total, seen = np.zeros((count, 2)), np.zeros(count)
    for person in people:
        left, top, width, height = person.box_xywh
        share = (person.keypoints[:, :2] - [left + width / 2, top]) / [width, height]
        total += share * person.labelled[:, None]
        seen += person.labelled
    mean = total / np.maximum(seen, 1)[:, None]
    mirror = mean * [-1, 1]
    away = np.linalg.norm(mean[:, None] - mirror[None], axis=2)
    away[seen < LEARN_LEAST] = np.inf
    away[:, seen < LEARN_LEAST] = np.inf
    best = away.argmin(axis=1)
    return [
        (a, int(b))
        for a, b in enumerate(best)
        if best[b] == a and mean[a, 0] > 0.03 and mean[b, 0] < -0.03 and away[a, b] < 0.05
    ]


@dataclass(frozen=True)
class _Along:
    """Two pairs that point the same way (sign 1) in nearly everybody, or against each other."""

    first: int
    second: int
    sign: int = 1


@dataclass(frozen=True)
class _Turn:
    """Three points (each the mean of some) that go round one way (sign) in nearly everybody.

    without: a keypoint that must not be labelled; -1: none.
    """

    corners: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    sign: int
    without: int = -1


# People's pairs that point the same way however they stand; knees and below cross, wrists too.
_TRUNK = ("eye", "ear", "shoulder", "elbow", "hip")


@dataclass(frozen=True)
class _Sides:
    """What is known about left and right of one kind of body, and how to look at a person."""

    skeleton: Skeleton
    along: tuple[_Along, ...]
    turns: tuple[_Turn, ...]

    @cached_property
    def spread(self) -> FloatArray:
        """[P], how exactly a pair's ends are labelled, as a share of the root of the area."""
        squares = np.array(self.skeleton.sigmas)[np.array(self.skeleton.flip_pairs)] ** 2
        return np.asarray(np.sqrt(squares.mean(axis=1)))


def swapped_sides(people: Sequence[Labelled], skeleton: Skeleton) -> Iterator[tuple[Labelled, str]]:
    """People whose left and right are probably swapped, and why; see this module's docstring."""
    if not skeleton.flip_pairs or not people:
        return
    points = np.array([p.keypoints for p in people])  # [N, K, 3]
    roots = np.sqrt([p.area for p in people])
    rules = _known_sides(skeleton) or _learned_sides(skeleton, points, roots)
    pairs = [f"{skeleton.keypoints[a]}/{skeleton.keypoints[b]}" for a, b in skeleton.flip_pairs]
    votes = np.zeros((len(people), len(pairs), 2), np.int64)  # for and against each pair
    for rule in rules.along:
        said = _along(rules, rule.first, rule.second, points, roots) * rule.sign
        for pair in (rule.first, rule.second):
            votes[:, pair, 0] += said > 0
            votes[:, pair, 1] += said < 0
    turns = np.zeros((len(people), 2), np.int64)
    for turn in rules.turns:
        said = _turn(rules, turn, points, roots) * turn.sign
        turns[:, 0] += said > 0
        turns[:, 1] += said < 0
    for person, vote, turn_vote in zip(people, votes, turns, strict=True):
        against = np.flatnonzero(vote[:, 1] > vote[:, 0]).tolist()
        if against:
            yield person, f"{' and '.join(pairs[i] for i in against)} point against the other pairs"
        elif turn_vote[1] > turn_vote[0]:
            yield person, _throughout(rules)


def _throughout(rules: _Sides) -> str:
    if rules.skeleton.keypoints == COCO_17.keypoints:
        return "the left eye is where a seen face has its right one: all swapped, or face not seen?"
    return "its order of left and right is that of a mirror image of the others: all sides swapped?"


def _known_sides(skeleton: Skeleton) -> _Sides | None:
    """The rules of COCO's people."""
    if skeleton.keypoints != COCO_17.keypoints:
        return None
    order = {skeleton.keypoints[a]: i for i, (a, _) in enumerate(skeleton.flip_pairs)}
    trunk = [order[f"left_{name}"] for name in _TRUNK]
    along = tuple(_Along(i, j) for i, j in combinations(trunk, 2))
    nose, left_eye, right_eye, left_ear, right_ear = ((k,) for k in range(5))
    turns = (
        # Both eyes and the nose are seen from the front alone. From the side one sees the ear of
        # that side; were the other one labelled too, somebody has guessed it.
        _Turn((left_eye, right_eye, nose), -1),
        _Turn((left_ear, left_eye, nose), -1, without=4),
        _Turn((right_ear, right_eye, nose), 1, without=3),
    )
    return _Sides(skeleton, along, turns)


def _learned_sides(skeleton: Skeleton, points: FloatArray, roots: FloatArray) -> _Sides:
    """The rules that nearly everybody in the data follows."""
    rules = _Sides(skeleton, (), ())
    pairs = skeleton.flip_pairs
    along, turns = [], []
    for i, j in combinations(range(len(pairs)), 2):
        if sign := _agreed(_along(rules, i, j, points, roots)):
            along.append(_Along(i, j, sign))
    paired = {end for pair in pairs for end in pair}
    thirds = [*pairs, *((k,) for k in range(len(skeleton.keypoints)) if k not in paired)]
    for a, b in pairs:
        for third in thirds:
            turn = _Turn(((a,), (b,), third), 1)
            if (a, b) != third and (sign := _agreed(_turn(rules, turn, points, roots))):
                turns.append(_Turn(turn.corners, sign))
    return _Sides(skeleton, tuple(along), tuple(turns))


def _agreed(said: FloatArray) -> int:
    """The sign that nearly all have who say one; 0 where too few do."""
    spoken = int(np.abs(said).sum())
    if spoken < LEARN_LEAST or abs(said.sum()) < (2 * LEARN_SHARE - 1) * spoken:
        return 0
    return int(np.sign(said.sum()))


def _pair(
    rules: _Sides, index: int, points: FloatArray, roots: FloatArray
) -> tuple[FloatArray, FloatArray, npt.NDArray[np.bool_]]:
    """Right to left [N, 2], its length [N], and whether it is long enough to say something."""
    a, b = rules.skeleton.flip_pairs[index]
    vector = points[:, a, :2] - points[:, b, :2]
    length = np.linalg.norm(vector, axis=1)
    labelled = (points[:, a, 2] > 0) & (points[:, b, 2] > 0)
    sure = labelled & (length > SURE_LENGTH * rules.spread[index] * roots)
    return vector, length, np.asarray(sure)


def _along(rules: _Sides, i: int, j: int, points: FloatArray, roots: FloatArray) -> FloatArray:
    """[N], 1 where two pairs point the same way, -1 against each other, 0 where nobody can say."""
    first, first_length, first_sure = _pair(rules, i, points, roots)
    second, second_length, second_sure = _pair(rules, j, points, roots)
    cosine = (first * second).sum(axis=1) / np.maximum(first_length * second_length, 1e-9)
    return np.asarray(np.sign(cosine) * (first_sure & second_sure & (np.abs(cosine) > SURE_COSINE)))


def _turn(rules: _Sides, turn: _Turn, points: FloatArray, roots: FloatArray) -> FloatArray:
    """[N], 1 where three points go round with the clock, -1 against it, 0 where nobody can say."""
    used = [k for corner in turn.corners for k in corner]
    a, b, c = (points[:, list(corner), :2].mean(axis=1) for corner in turn.corners)
    first, second = b - a, c - a
    cross = first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]
    longest = np.max([np.linalg.norm(side, axis=1) for side in (first, second, c - b)], axis=0)
    known = (points[:, used, 2] > 0).all(axis=1)
    if turn.without >= 0:
        known &= points[:, turn.without, 2] == 0
    spread = np.array(rules.skeleton.sigmas)[used].mean()
    return np.asarray(
        np.sign(cross) * (known & (np.abs(cross) > SURE_HEIGHT * spread * roots * longest))
    )


TILE = 256


def _in_turn(findings: Sequence[Finding]) -> list[Finding]:
    """One finding of each kind, then a second one of each, in order of how bad the kinds are."""
    groups: dict[tuple[str, str], list[Finding]] = defaultdict(list)
    for finding in findings:
        groups[finding.level, finding.kind].append(finding)
    ranked = [(n, i, f) for i, g in enumerate(groups.values()) for n, f in enumerate(g)]
    return [f for _, _, f in sorted(ranked, key=lambda entry: entry[:2])]


def _tile(data: Examined, person: Labelled | None, finding: Finding | None) -> Image:
    """One person in TILE x TILE pixels; grey where there is nobody or no photograph."""
    text: str = "" if finding is None else finding.kind
    tile = np.full((TILE, TILE, 3), 96, np.uint8)
    image = person.image if person is not None else finding.image if finding is not None else None
    name = data.files.get(image) if _hashable(image) else None
    if name is not None:
        try:
            tile = _drawn(read_image(data.folder / name), person, data.skeleton)
        except ImageError:
            text += " (no image)"
    key = person.id if person is not None else finding.annotation if finding is not None else None
    return label(tile, f"{'' if key is None else f'{key} '}{text}".strip() or "-")


def _drawn(image: Image, person: Labelled | None, skeleton: Skeleton) -> Image:
    height, width = image.shape[:2]
    if person is None:
        return warp(image, Crop.around((0, 0, width, height), (TILE, TILE), padding=1.0))
    points = person.keypoints[person.labelled, :2]
    left, top, box_width, box_height = person.box_xywh
    corners = [*points, (left, top), (left + box_width, top + box_height)]
    # Never farther than one image beyond the image: a keypoint at 10**6 would hide everything else.
    low = np.maximum(np.min(corners, axis=0), [-width, -height])
    high = np.minimum(np.max(corners, axis=0), [2 * width, 2 * height])
    shown = np.maximum(high - low, 4.0)
    crop = Crop.around((*low, *shown), (TILE, TILE), padding=1.15)
    keypoints = np.column_stack([crop.to_input(person.keypoints[:, :2]), person.labelled])
    start, end = crop.to_input(np.array([[left, top], [left + box_width, top + box_height]]))
    box = (*start.tolist(), *(end - start).tolist())
    drawn = Person(keypoints.astype(np.float32), float(person.labelled.mean()), box)
    return draw_people(warp(image, crop), [drawn], skeleton)
