"""What can be wrong with images and annotations of a COCO keypoint file, one check a function."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from heads.errors import ImageError
from heads.geometry import Size, clip_box
from heads.image import read_image
from heads.skeleton import Skeleton
from training.findings import Findings, FloatArray, Labelled, Level, Say, is_id

SLACK_PX = 1.0
"""A keypoint may lie so far outside its image: labels are rounded, some to the image's edge."""
SLACK_SHARE = 0.02
"""Outside by this share of the box's longer side, a keypoint or a box is no error yet."""
BOX_MARGIN = 0.10
"""A box may miss its keypoints by this share of its longer side."""
BOX_AREA_SHARE = 0.53
"""A person's area where only the box is known (as in ultralytics' evaluation of poses)."""


def check_images(
    images: Sequence[Any], folder: Path, pixels: bool, findings: Findings
) -> dict[Any, Size]:
    """Image ids and their sizes (height, width), of images whose entry can be read."""
    sizes: dict[Any, Size] = {}
    for place, entry in enumerate(images):
        try:
            key, name = entry["id"], str(entry["file_name"])
            height, width = (_whole(entry[side]) for side in ("height", "width"))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            reason = f"image {place} of the list needs id, file_name, height, width: {error!r}"
            findings.add("error", "entry", reason)
            continue
        if not is_id(key):
            findings.add("error", "entry", f"image {place} of the list has the id {key!r}")
            continue
        if key in sizes:
            reason = f"{name} has the id of {findings.names[key]}"
            findings.add("error", "duplicate-id", reason, key)
            continue
        findings.names[key], sizes[key] = name, (height, width)
        check_file(folder / name, (height, width), pixels, findings.about(key))
    return sizes


def _whole(side: Any) -> int:
    """A side of an image; ValueError for text, which would be taken for a number here alone."""
    if isinstance(side, bool) or not isinstance(side, int | float) or side != int(side):
        raise ValueError(f"{side!r} is no whole number")
    return int(side)


def check_file(path: Path, size: Size, pixels: bool, say: Say) -> None:
    """An image's file is there; pixels: and can be read, and is as large as annotated."""
    if not path.is_file():
        say("error", "missing-image", f"is not in {path.parent.name}")
    elif pixels:
        check_pixels(path, size, say)


def check_pixels(path: Path, size: Size, say: Say) -> None:
    """An image can be read, and is as large as annotated."""
    try:
        real = read_image(path).shape[:2]
    except ImageError as error:
        say("error", "unreadable-image", str(error).removeprefix(f"{path.name}: "))
        return
    if real != size:
        turned = "; the labels are of the photograph before EXIF turned it" * (real == size[::-1])
        reason = f"is {real[1]} x {real[0]} pixels, annotated as {size[1]} x {size[0]}{turned}"
        say("error", "image-size", reason)


def check_entries(
    entries: Sequence[Any], sizes: Mapping[Any, Size], skeleton: Skeleton, findings: Findings
) -> tuple[list[Labelled], int]:
    """People whose entries can be read, and how many crowds there are."""
    people: list[Labelled] = []
    seen: set[Any] = set()
    crowds = 0
    for place, entry in enumerate(entries):
        if not isinstance(entry, dict) or not is_id(entry.get("id")):
            findings.add("error", "entry", f"annotation {place} of the list has no fields or id")
            continue
        key, image = entry["id"], entry.get("image_id")
        say = findings.about(image, key)
        if key in seen:
            say("error", "duplicate-id", "the id stands more than once")
            continue
        seen.add(key)
        if not is_id(image) or image not in sizes:
            say("error", "unknown-image", f"is of image {image!r}")
        elif entry.get("iscrowd"):
            crowds += check_box(entry.get("bbox"), say) is not None
        elif person := check_person(entry, sizes[image], skeleton, say):
            people.append(person)
    return people, crowds


def check_person(
    entry: Mapping[str, Any], size: Size, skeleton: Skeleton, say: Say
) -> Labelled | None:
    """The person, where everything about it can be read; None where not."""
    count = len(skeleton.keypoints)
    keypoints = check_keypoints(entry, count, say)
    if keypoints is None:
        return None
    labelled = int((keypoints[:, 2] > 0).sum())
    check_claim(entry.get("num_keypoints"), labelled, say)
    check_scores(entry.get("scores", [1.0] * count), count, say)
    box = check_box(entry.get("bbox"), say)
    if box is None or (labelled and not check_box_place(box, size, say)):
        return None
    if check_inside_image(keypoints, box, size, skeleton, say):
        check_inside_box(keypoints, box, skeleton, say)
    left, top, width, height = box.tolist()
    area = known_area(entry.get("area")) or BOX_AREA_SHARE * width * height
    return Labelled(entry["id"], entry["image_id"], keypoints, (left, top, width, height), area)


def check_keypoints(entry: Mapping[str, Any], count: int, say: Say) -> FloatArray | None:
    """Keypoints [K, 3] are K finite places, each with visibility 0, 1 or 2; None where not."""
    values = _numbers(entry.get("keypoints", []))
    if values is not None and not len(values) and not entry.get("num_keypoints"):
        values = np.zeros(3 * count)  # COCO: a person without labels may have none at all
    if values is None or len(values) != 3 * count:
        length = "no list of numbers" if values is None else f"{len(values)} numbers"
        say("error", "keypoints-length", f"{count} keypoints are {3 * count} numbers; got {length}")
        return None
    if not np.isfinite(values).all():
        say("error", "not-finite", "a keypoint is not finite")
        return None
    keypoints = values.reshape(count, 3)
    if strange := sorted(set(keypoints[:, 2].tolist()) - {0.0, 1.0, 2.0}):
        shown = ", ".join(f"{v:g}" for v in strange[:3])
        say("error", "visibility", f"visibility is 0, 1 or 2; got {shown}")
        return None
    return keypoints


def check_claim(claimed: Any, labelled: int, say: Say) -> None:
    """num_keypoints, by which training chooses, is the number of labels."""
    if claimed is not None and claimed != labelled:
        say("warning", "num-keypoints", f"num_keypoints is {claimed}, labelled are {labelled}")


def check_scores(values: Any, count: int, say: Say) -> None:
    """How sure each label is, a field of this project's."""
    scores = _numbers(values)
    if scores is None or len(scores) != count or not np.isfinite(scores).all():
        say("error", "scores", f"scores are {count} finite numbers, where there are any")


def check_box(values: Any, say: Say) -> FloatArray | None:
    """A box is four finite numbers; None where not."""
    box = _numbers(values)
    if box is None or len(box) != 4:
        say("error", "box", f"a box is 4 numbers; got {values!r}")
        return None
    if not np.isfinite(box).all():
        say("error", "not-finite", "the box is not finite")
        return None
    return box


def check_box_place(box: FloatArray, size: Size, say: Say) -> bool:
    """A box with an area, in its image; False where nothing can be cut out by it."""
    left, top, width, height = box.tolist()
    if width <= 1 or height <= 1:
        say("error", "box", f"the box is {width:g} x {height:g} pixels")
        return False
    outside = (-left, -top, left + width - size[1], top + height - size[0])
    sides = (width, height, width, height)
    if any(out >= side - 1 for out, side in zip(outside, sides, strict=True)):
        reason = f"the box {_shown(box)} lies outside the image of {size[1]} x {size[0]}"
        say("error", "box-outside", reason)
        return False
    if max(outside) > max(SLACK_PX, SLACK_SHARE * max(width, height)):
        reason = f"the box leaves the image by {max(outside):.1f} pixels; training clips it"
        say("warning", "box-clipped", reason)
    return True


def check_inside_image(
    keypoints: FloatArray, box: FloatArray, size: Size, skeleton: Skeleton, say: Say
) -> bool:
    """Labelled keypoints lie in the image; False where one does not."""
    last = np.array([size[1] - 1.0, size[0] - 1.0])
    outside = _beyond(keypoints, np.zeros(2), last)
    worst = int(outside.argmax())
    if outside[worst] <= SLACK_PX:
        return True
    slack = max(SLACK_PX, SLACK_SHARE * float(box[2:].max()))
    level: Level = "error" if outside[worst] > slack else "warning"
    reason = (
        f"{skeleton.keypoints[worst]} at {_shown(keypoints[worst, :2])} lies outside the image "
        f"of {size[1]} x {size[0]}{_others(outside > SLACK_PX)}"
    )
    say(level, "keypoint-outside", reason)
    return False


def check_inside_box(keypoints: FloatArray, box: FloatArray, skeleton: Skeleton, say: Say) -> None:
    """Labelled keypoints lie in the box, or near it."""
    missed = _beyond(keypoints, box[:2], box[:2] + box[2:])
    worst = int(missed.argmax())
    margin = BOX_MARGIN * float(box[2:].max()) + SLACK_PX
    if missed[worst] > margin:
        reason = (
            f"{skeleton.keypoints[worst]} lies {missed[worst]:.1f} pixels outside the box "
            f"{_shown(box)}{_others(missed > margin)}"
        )
        say("warning", "box-misses-keypoints", reason)


def has_area(box_xywh: Sequence[float], size: Size) -> bool:
    """More than a pixel of the box lies in the image of (height, width), so that it is a crop."""
    return min(clip_box(box_xywh, size)[2:]) > 1


def _numbers(values: Any) -> FloatArray | None:
    """A flat list as numbers; None for anything else."""
    if not isinstance(values, list) or not all(isinstance(v, int | float) for v in values):
        return None
    try:
        return np.array(values, np.float64)
    except OverflowError:  # a whole number of hundreds of digits
        return None


def known_area(value: Any) -> float:
    """The annotated area; 0 where it says nothing."""
    try:
        known = isinstance(value, int | float) and math.isfinite(value) and value > 0
    except OverflowError:
        return 0.0
    return float(value) if known else 0.0


def _beyond(keypoints: FloatArray, low: FloatArray, high: FloatArray) -> FloatArray:
    """[K], by how much labelled keypoints [K, 3] lie beyond a rectangle on its worst side."""
    points = keypoints[:, :2]
    beyond = np.maximum(low - points, points - high).max(axis=1)
    return np.asarray(np.maximum(beyond, 0.0) * (keypoints[:, 2] > 0))


def _others(which: npt.NDArray[np.bool_]) -> str:
    more = int(which.sum()) - 1
    return f", and {more} more" if more else ""


def _shown(values: FloatArray) -> str:
    return f"({', '.join(f'{v:g}' for v in values.round(1).tolist())})"
