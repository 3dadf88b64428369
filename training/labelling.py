"""Labels by a network: photographs, and boxes where somebody drew them -> a COCO keypoint file.

    photographs = find_photographs(folder)        # everybody whom the network finds
    photographs = read_boxes(boxes_file, spec)    # one person a box of a COCO file
    labels = label(photographs, folder, predict, spec)

A keypoint of score SURE is seen (visibility 2), one of UNSURE is kept as unsure (1), less is not
labelled (0). `scores` say how sure each is, and training weighs the keypoints by them. `source` of
an annotation is the network's name, so that a recipe's data.weights can tell such labels from
people's own. No torch here.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field, FiniteFloat, TypeAdapter

from heads.errors import ImageError
from heads.geometry import Size, clip_box
from heads.image import SUFFIXES, Image, is_photograph, read_image
from heads.person import Person
from heads.skeleton import COCO_17, Skeleton
from heads.spec import NetworkSpec
from training.annotations import Box, checked, read_json
from training.checks import BOX_AREA_SHARE, SLACK_PX, has_area
from training.errors import AnnotationError, DataError

SURE, UNSURE = 0.3, 0.2
LEAST_SEEN = 6
"""So many of COCO's 17 keypoints have to be seen; as large a share of another skeleton's."""

CROWD, OTHER, NO_AREA = "crowd boxes", "boxes of other categories", "boxes without area"
UNREADABLE, TOO_FEW, TOO_UNSURE = (
    "photographs that cannot be read", "people with too few keypoints seen", "people too unsure",
)  # fmt: skip

Predict = Callable[[Image, Sequence[Box] | None], Sequence[Person]]
"""An image, boxes where they are given -> people; with boxes one a box, in order."""

Follow = Callable[[Sequence["Photograph"]], Iterable["Photograph"]]


class _Photograph(BaseModel):
    """An image of a boxes file, and those of its fields that go on into the labels."""

    id: int
    file_name: str
    width: int | None = None
    height: int | None = None
    source: Any = None
    coco_id: Any = None
    license: Any = None


class _BoxEntry(BaseModel):
    image_id: int
    bbox: Annotated[list[FiniteFloat], Field(min_length=4, max_length=4)]
    category_id: int | None = None
    iscrowd: int = 0


class _Category(BaseModel):
    id: int
    name: str


class _BoxesFile(BaseModel):
    images: list[_Photograph]
    annotations: list[_BoxEntry]
    categories: list[_Category] = []
    licenses: list[Any] = []


_BOXES_FILE = TypeAdapter(_BoxesFile)


@dataclass(frozen=True)
class Photograph:
    """One to label. boxes: of its people; None where they are to be found.

    size: what the boxes are pixels of; None where nothing says so.
    fields: that its entry has beside id, file_name, width and height.
    """

    id: int
    file_name: str
    boxes: Sequence[Box] | None = None
    size: Size | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Photographs:
    """Those to label. left_out: boxes by reason.  licenses: that their fields name."""

    entries: Sequence[Photograph]
    left_out: Mapping[str, int] = field(default_factory=dict)
    licenses: Sequence[Any] = ()


@dataclass(frozen=True)
class Labels:
    """The content of a COCO keypoint file, what was left out by reason, and what was unreadable."""

    content: dict[str, Any]
    left_out: Mapping[str, int]
    unreadable: Sequence[str]


def find_photographs(folder: Path) -> Photographs:
    """All of a folder and the folders in it, by name; DataError where there are none."""
    names = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if is_photograph(path) and path.is_file()
    )
    if not names:
        raise DataError(f"{folder} has no photographs ({', '.join(SUFFIXES)})")
    return Photographs([Photograph(number, name) for number, name in enumerate(names, start=1)])


def read_boxes(path: Path, spec: NetworkSpec) -> Photographs:
    """The photographs of a COCO file, each with the boxes of the network's kind of thing.

    Crowds are left out, and boxes of categories of another name, where the file has categories.
    Raises AnnotationError, which names the file and the entry.
    """
    content = checked(_BOXES_FILE, read_json(path), f"{path.name} is no COCO file of boxes")
    name = category_of(spec.skeleton)["name"]
    wanted = {category.id for category in content.categories if category.name == name}
    if content.categories and not wanted:
        others = ", ".join(category.name for category in content.categories[:5])
        raise AnnotationError(f"{path.name} has no category {name}; it has {others}")
    boxes: dict[int, list[Box]] = {}
    for image in content.images:
        if image.id in boxes:
            raise AnnotationError(f"{path.name} has more than one image with id {image.id}")
        boxes[image.id] = []
    left_out: Counter[str] = Counter()
    for place, entry in enumerate(content.annotations):
        if wanted and entry.category_id not in wanted:
            left_out[OTHER] += 1
        elif entry.iscrowd:
            left_out[CROWD] += 1
        elif entry.image_id not in boxes:
            where = f"{path.name}: annotations.{place}"
            raise AnnotationError(f"{where} is of image {entry.image_id}, which it does not have")
        else:
            left, top, width, height = entry.bbox
            boxes[entry.image_id].append((left, top, width, height))
    entries = [_photograph(image, boxes[image.id]) for image in content.images]
    return Photographs(entries, left_out, content.licenses)


def _photograph(image: _Photograph, boxes: Sequence[Box]) -> Photograph:
    size = None
    if image.height is not None and image.width is not None:
        size = (image.height, image.width)
    fields = image.model_dump(include={"source", "coco_id", "license"}, exclude_none=True)
    return Photograph(image.id, image.file_name, boxes, size, fields)


def category_of(skeleton: Skeleton) -> dict[str, Any]:
    """A skeleton as an entry of a COCO file's categories, from which it is read back the same."""
    names = skeleton.keypoints
    category = {
        "id": 1,
        "name": "person" if names == COCO_17.keypoints else skeleton.name,
        "keypoints": list(names),
        "skeleton": [[a + 1, b + 1] for a, b in skeleton.edges],
    }
    alone = Skeleton.from_coco_category(category)
    if alone.flip_pairs != skeleton.flip_pairs:
        category["flip_pairs"] = [[names[a], names[b]] for a, b in skeleton.flip_pairs]
    if alone.sigmas != skeleton.sigmas:
        category["sigmas"] = list(skeleton.sigmas)
    return category


def label(
    photographs: Photographs,
    folder: Path,
    predict: Predict,
    spec: NetworkSpec,
    *,
    least: float = SURE,
    follow: Follow = iter,
) -> Labels:
    """What the network spec sees in photographs of a folder, as COCO content.

    predict: the network.  follow: wraps the photographs, to show progress.
    least: people whose labelled keypoints have a lower mean score are left out, and those with too
        few keypoints seen, see LEAST_SEEN. Photographs without people stay in the list of images.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    unreadable: list[str] = []
    left_out = Counter(photographs.left_out)
    for photograph in follow(photographs.entries):
        try:
            image = _read(folder, photograph)
        except ImageError as error:
            unreadable.append(str(error))
            continue
        size = (image.shape[0], image.shape[1])
        entry = {"id": photograph.id, "file_name": photograph.file_name}
        images.append(entry | {"width": size[1], "height": size[0], **photograph.fields})
        for person in _people(image, photograph.boxes, predict, left_out):
            found = _annotation(person, size, photograph.boxes is not None)
            if reason := _reason_against(found, least):
                left_out[reason] += 1
                continue
            ids = {"id": len(annotations) + 1, "image_id": photograph.id, "category_id": 1}
            by = {"source": spec.name, "labeller": spec.name}
            annotations.append(ids | found | by)
    left_out[UNREADABLE] += len(unreadable)
    content = {
        "info": {"description": f"keypoints labelled by {spec.name}"},
        **({"licenses": list(photographs.licenses)} if photographs.licenses else {}),
        "images": images,
        "annotations": annotations,
        "categories": [category_of(spec.skeleton)],
    }
    return Labels(content, +left_out, unreadable)


def _read(folder: Path, photograph: Photograph) -> Image:
    """The photograph; ImageError also where its boxes are pixels of another size."""
    image = read_image(folder / photograph.file_name)
    real = (image.shape[0], image.shape[1])
    if photograph.size not in (None, real):
        raise ImageError(
            f"{photograph.file_name} is {real[1]} x {real[0]} pixels, "
            f"its boxes are of {photograph.size[1]} x {photograph.size[0]}"
        )
    return image


def _people(
    image: Image, boxes: Sequence[Box] | None, predict: Predict, left_out: Counter[str]
) -> Sequence[Person]:
    """Who is in the boxes, or in the image; each has a box that can be trained on."""
    size = (image.shape[0], image.shape[1])
    if boxes is None:
        people = predict(image, None)
        usable = [person for person in people if has_area(person.box_xywh, size)]
        left_out[NO_AREA] += len(people) - len(usable)
        return usable
    given = [box for box in boxes if has_area(box, size)]
    left_out[NO_AREA] += len(boxes) - len(given)
    return predict(image, given) if given else []


def _annotation(person: Person, size: Size, box_was_given: bool) -> dict[str, Any]:
    """A person's fields without ids; a given box is kept as it is, a found one is clipped."""
    points = person.keypoints[:, :2].astype(np.float64).round(2)
    scores = person.keypoints[:, 2].astype(np.float64).clip(0, 1).round(3)
    last = np.array([size[1] - 1.0, size[0] - 1.0])
    outside = np.maximum(-points, points - last).max(axis=1) > SLACK_PX
    visibility = np.select([outside, scores >= SURE, scores >= UNSURE], [0, 2, 1], 0)
    points = points.clip(0, last) * (visibility > 0)[:, None]
    box = list(person.box_xywh)
    if not box_was_given:
        box = [round(side, 2) for side in clip_box(box, size)]
    keypoints = [
        number
        for (x, y), v in zip(points.tolist(), visibility.tolist(), strict=True)
        for number in (x, y, v)
    ]
    return {
        "bbox": box,
        "area": round(BOX_AREA_SHARE * box[2] * box[3], 2),
        "iscrowd": 0,
        "num_keypoints": int((visibility > 0).sum()),
        "keypoints": keypoints,
        "scores": scores.tolist(),
    }


def _reason_against(found: Mapping[str, Any], least: float) -> str:
    """Why a person is left out; empty where there is no reason."""
    visibility: npt.NDArray[np.int64] = np.array(found["keypoints"][2::3])
    wanted = math.ceil(len(visibility) * LEAST_SEEN / len(COCO_17.keypoints))
    if (visibility == 2).sum() < wanted:
        return TOO_FEW
    if np.array(found["scores"])[visibility > 0].mean() < least:
        return TOO_UNSURE
    return ""
