"""COCO keypoint files to measure by: what is read is checked here, and trusted elsewhere."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel, FiniteFloat, TypeAdapter, ValidationError

from heads.skeleton import Skeleton
from heads.validation import first_reason
from models.errors import SpecError
from training.checks import BOX_AREA_SHARE, known_area
from training.errors import AnnotationError
from training.findings import Sound

Box = tuple[float, float, float, float]


Id = int | str
"""Of a photograph or annotation; COCO's own are numbers."""


class _Photograph(BaseModel):
    id: Id
    file_name: str
    height: int | None = None
    width: int | None = None


class _Annotated(BaseModel):
    """Someone annotated; people without labelled keypoints need no list of them."""

    id: Id
    image_id: Id
    bbox: tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat]
    area: Any = None  # OKS is measured by it; see _person
    iscrowd: int = 0
    keypoints: list[FiniteFloat] = []


class _Category(BaseModel):
    id: int
    keypoints: list[str] = []
    name: Any = None  # this and the next: see Skeleton.from_coco_category
    skeleton: Any = None
    sigmas: Any = None
    flip_pairs: Any = None


class _CocoFile(BaseModel):
    images: list[_Photograph]
    categories: list[_Category]
    annotations: list[dict[str, Any]]  # those of other categories may look otherwise


class _Detection(BaseModel):
    image_id: Id
    category_id: int | None = None
    bbox: tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat]
    score: FiniteFloat


_COCO_FILE, _PERSON = TypeAdapter(_CocoFile), TypeAdapter(_Annotated)
_DETECTIONS = TypeAdapter(list[_Detection])


@dataclass(frozen=True)
class Annotations:
    """The photographs and people of one category of a COCO keypoint file, checked.

    images: entries with id and file_name, and height and width, which may be None.
    annotations: of that category alone, with id, image_id, category_id, bbox, area, iscrowd,
        num_keypoints and keypoints [x, y, visibility] * K.
    """

    name: str
    images: Sequence[Mapping[str, Any]]
    annotations: Sequence[Mapping[str, Any]]
    category_id: int
    skeleton: Skeleton

    def people(self, image_id: Id) -> list[Mapping[str, Any]]:
        """Annotated people of one image who have labelled keypoints and are no crowd."""
        return self._people.get(image_id, [])

    @cached_property
    def _people(self) -> dict[Id, list[Mapping[str, Any]]]:
        found: dict[Id, list[Mapping[str, Any]]] = {}
        for entry in self.annotations:
            if entry["num_keypoints"] > 0 and not entry["iscrowd"]:
                found.setdefault(entry["image_id"], []).append(entry)
        return found


def load_annotations(
    path: Path, *, skeleton: Skeleton | None = None, sound: Sound | None = None
) -> Annotations:
    """Reads a COCO keypoint file: the first category with keypoints, and its people.

    skeleton: measures by its sigmas instead of the file's, see `Skeleton.from_coco_category`.
    sound: what of the file is read; None: everything.
    Raises AnnotationError, which names the file, the entry and what is wrong with it.
    """
    whole = read_json(path)
    part = whole if sound is None else sound.part_of(whole)
    content = checked(_COCO_FILE, part, f"{path.name} is no COCO keypoint file")
    category = next((c for c in content.categories if c.keypoints), None)
    if category is None:
        raise AnnotationError(f"{path.name} has no category with keypoints")
    if skeleton is None:
        try:
            skeleton = Skeleton.from_coco_category(category.model_dump(exclude_none=True))
        except SpecError as error:
            raise AnnotationError(f"{path.name}: {error}") from error
    elif list(skeleton.keypoints) != category.keypoints:
        raise AnnotationError(
            f"{path.name} has the keypoints {category.keypoints}; "
            f"skeleton {skeleton.name} has {list(skeleton.keypoints)}"
        )
    people = [
        _person(path.name, entry, category.id, len(skeleton.keypoints))
        for entry in content.annotations
        if is_of(entry, category.id)
    ]
    photographs = [image.model_dump() for image in content.images]
    for kind, entries in (("image", photographs), ("annotation", people)):
        if twice := [i for i, n in Counter(entry["id"] for entry in entries).items() if n > 1]:
            raise AnnotationError(f"{path.name} has more than one {kind} with id {twice[0]}")
    there = {image["id"] for image in photographs}
    if lost := [p for p in people if p["image_id"] not in there]:
        raise AnnotationError(
            f"{path.name}, annotation {lost[0]['id']} is of image {lost[0]['image_id']}, which is "
            "not in the list"
        )
    return Annotations(path.name, photographs, people, category.id, skeleton)


def load_detections(
    path: Path, category_id: int | None = None
) -> dict[Id, list[tuple[Box, float]]]:
    """Reads a COCO detection list: image id -> boxes [left, top, width, height] and scores.

    category_id: leaves out boxes that say they hold something else. Boxes without an area hold
    nobody and are left out too. Raises AnnotationError, which names the file and the entry.
    """
    found: dict[Id, list[tuple[Box, float]]] = {}
    for entry in checked(_DETECTIONS, read_json(path), f"{path.name} is no COCO detection list"):
        is_other = None not in (category_id, entry.category_id) and entry.category_id != category_id
        if not is_other and min(entry.bbox[2:]) > 0:
            found.setdefault(entry.image_id, []).append((entry.bbox, entry.score))
    return found


def is_of(entry: Mapping[str, Any], category_id: Any) -> bool:
    """Whether an annotation is of a category; one that names none is of any."""
    return str(entry.get("category_id", category_id)) == str(category_id)


def read_json(path: Path) -> Any:
    """What a JSON file holds; AnnotationError names the file."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise AnnotationError(f"{path.name} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise AnnotationError(f"{path.name} is no JSON: {error}") from error


def read_coco(path: Path) -> dict[str, Any]:
    """What a COCO annotation file holds, its three lists; AnnotationError where it is none."""
    content = read_json(path)
    for part in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(part), list):
            raise AnnotationError(f"{path.name} is no COCO keypoint file: it has no list {part!r}")
    whole: dict[str, Any] = content
    return whole


def checked(form: TypeAdapter[Any], value: Any, where: str) -> Any:
    """The value in its form; AnnotationError says what is wrong, after `where`."""
    try:
        return form.validate_python(value)
    except ValidationError as error:
        raise AnnotationError(f"{where}: {first_reason(error)}") from error


def _person(name: str, entry: Mapping[str, Any], category_id: int, count: int) -> dict[str, Any]:
    """The entry as pycocotools needs it; num_keypoints is counted, whatever is claimed.

    An area of 0, which some tools write, stands for none: by it nothing would be near enough.
    """
    where = f"{name}, annotation {entry.get('id')}"
    person = checked(_PERSON, entry, where)
    labelled = sum(visibility > 0 for visibility in person.keypoints[2::3])
    keypoints = person.keypoints or [0.0] * (3 * count if labelled == 0 else 0)
    if len(keypoints) != 3 * count:
        raise AnnotationError(f"{where}: needs {3 * count} keypoint numbers, has {len(keypoints)}")
    box_area = max(0.0, person.bbox[2] * person.bbox[3])
    person.area = known_area(person.area) or BOX_AREA_SHARE * box_area
    counted = {"category_id": category_id, "num_keypoints": labelled, "keypoints": keypoints}
    return {**person.model_dump(), **counted}
