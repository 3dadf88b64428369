"""How good a network is: the official COCO keypoint measure, and PCK, from what it answered.

    photographs --predict--> people --results--> COCO result list --score--> Scores

`predict` is a function from an image (and boxes, where they are given) to people, so the same code
measures a network in training and the server's whole pipeline. Every score says which boxes were
used: with the annotated boxes (`gt`) nobody can be missed, so those figures are always higher.

AP and AR are computed by pycocotools, by OKS, over 10 thresholds from 0.50 to 0.95. What is read
(annotations, detections, results) is checked here, at the border, and trusted afterwards.
"""

import contextlib
import io
import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    TypeAdapter,
    ValidationError,
)

from heads.image import Image, read_image
from heads.person import Person
from heads.skeleton import Skeleton
from models.errors import HrposeError

BoxesFrom = Literal["gt", "detector"]
Box = tuple[float, float, float, float]
Predict = Callable[[Image, Sequence[Box] | None], Sequence[Person]]
"""An RGB image, and the boxes where they are given -> people; with boxes one a box, in order."""

Result = dict[str, Any]
"""One entry of a COCO result list: image_id, category_id, keypoints [x, y, score] * K, score, and
ann_id where the annotated person's box was given."""

PCK_SHARE = 0.2
_NOBODY: Result = {"score": -np.inf}
_MAX_PEOPLE = 20  # the official measure counts so many answers a photograph


class AnnotationError(HrposeError):
    """Annotations, detections or results that cannot be used; names the file and the entry."""


class Scores(BaseModel):
    """What a network is worth on a set of annotated photographs; all shares lie in 0..1.

    boxes: which boxes the people were looked for in.
    ap, ar: mean over OKS thresholds 0.50 to 0.95; -1 where there is nobody of that size. medium
        and large: people of 32**2 to 96**2 square pixels, and above.
    pck: share of labelled keypoints within a fifth of the torso (or, for skeletons without
        shoulders and hips, of the box's longer side), as pck_reference says.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    boxes: str
    images: int
    people: int
    answers: int
    ap: float
    ap50: float
    ap75: float
    ap_medium: float
    ap_large: float
    ar: float
    ar50: float
    ar75: float
    ar_medium: float
    ar_large: float
    pck: float
    pck_reference: str
    pck_by_keypoint: dict[str, float]


class _Photograph(BaseModel):
    id: int
    file_name: str


class _Annotated(BaseModel):
    """Someone annotated; people without labelled keypoints need no list of them."""

    id: int
    image_id: int
    bbox: tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat]
    area: Annotated[FiniteFloat, Field(ge=0)]  # OKS is measured by it
    iscrowd: int = 0
    keypoints: list[FiniteFloat] = []
    num_keypoints: int | None = None


class _Category(BaseModel):
    id: int
    name: str = ""
    keypoints: list[str] = []
    skeleton: list[tuple[int, int]] = []


class _CocoFile(BaseModel):
    images: list[_Photograph]
    categories: list[_Category]
    annotations: list[dict[str, Any]]  # those of other categories may look otherwise


class _Detection(BaseModel):
    image_id: int
    category_id: int | None = None
    bbox: tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat]
    score: FiniteFloat


class _Answer(BaseModel):
    image_id: int
    category_id: int
    keypoints: list[FiniteFloat]
    score: FiniteFloat
    ann_id: int | None = None


_COCO_FILE, _PERSON = TypeAdapter(_CocoFile), TypeAdapter(_Annotated)
_DETECTIONS, _ANSWERS = TypeAdapter(list[_Detection]), TypeAdapter(list[_Answer])


@dataclass(frozen=True)
class Annotations:
    """The photographs and people of one category of a COCO keypoint file, checked.

    images: entries with id and file_name.  annotations: of that category alone, with id, image_id,
        category_id, bbox, area, iscrowd, num_keypoints and keypoints [x, y, visibility] * K.
    """

    name: str
    images: Sequence[Mapping[str, Any]]
    annotations: Sequence[Mapping[str, Any]]
    category_id: int
    skeleton: Skeleton

    def people(self, image_id: int) -> list[Mapping[str, Any]]:
        """Annotated people of one image who have labelled keypoints and are no crowd."""
        return self._people.get(image_id, [])

    @cached_property
    def _people(self) -> dict[int, list[Mapping[str, Any]]]:
        found: dict[int, list[Mapping[str, Any]]] = {}
        for entry in self.annotations:
            if entry["num_keypoints"] > 0 and not entry["iscrowd"]:
                found.setdefault(entry["image_id"], []).append(entry)
        return found


def load_annotations(path: Path, *, skeleton: Skeleton | None = None) -> Annotations:
    """Reads a COCO keypoint file: the first category with keypoints, and its people.

    skeleton: measures by its sigmas instead of COCO's (for COCO's 17) or the default ones.
    Raises AnnotationError, which names the file, the entry and what is wrong with it.
    """
    content = _checked(_COCO_FILE, _read_json(path), f"{path.name} is no COCO keypoint file")
    category = next((c for c in content.categories if c.keypoints), None)
    if category is None:
        raise AnnotationError(f"{path.name} has no category with keypoints")
    if skeleton is None:
        skeleton = Skeleton.from_coco_category(category.model_dump())
    elif list(skeleton.keypoints) != category.keypoints:
        raise AnnotationError(
            f"{path.name} has the keypoints {category.keypoints}; "
            f"skeleton {skeleton.name} has {list(skeleton.keypoints)}"
        )
    people = [
        _person(path.name, entry, category.id, len(skeleton.keypoints))
        for entry in content.annotations
        if entry.get("category_id", category.id) == category.id
    ]
    photographs = [image.model_dump() for image in content.images]
    for kind, entries in (("image", photographs), ("annotation", people)):
        if twice := [i for i, n in Counter(entry["id"] for entry in entries).items() if n > 1]:
            raise AnnotationError(f"{path.name} has more than one {kind} with id {twice[0]}")
    return Annotations(path.name, photographs, people, category.id, skeleton)


def load_detections(
    path: Path, category_id: int | None = None
) -> dict[int, list[tuple[Box, float]]]:
    """Reads a COCO detection list: image id -> boxes [left, top, width, height] and scores.

    category_id: leaves out boxes that say they hold something else. Boxes without an area hold
    nobody and are left out too. Raises AnnotationError, which names the file and the entry.
    """
    found: dict[int, list[tuple[Box, float]]] = {}
    for entry in _checked(_DETECTIONS, _read_json(path), f"{path.name} is no COCO detection list"):
        is_other = None not in (category_id, entry.category_id) and entry.category_id != category_id
        if not is_other and min(entry.bbox[2:]) > 0:
            found.setdefault(entry.image_id, []).append((entry.bbox, entry.score))
    return found


def predict_all(
    annotations: Annotations,
    images: Path,
    predict: Predict,
    boxes: BoxesFrom | Path,
    *,
    follow: Callable[[Sequence[Mapping[str, Any]]], Iterable[Mapping[str, Any]]] = iter,
) -> list[Result]:
    """What `predict` answers to every annotated photograph, as a COCO result list.

    boxes: `gt` gives the boxes of annotated people, `detector` gives none, a file gives its own,
        whose scores multiply the people's.
    follow: wraps the list of images, to show progress.
    Raises AnnotationError before anything is predicted where photographs are missing, and where no
    box of a file is of any of them.
    """
    if missing := [i for i in annotations.images if not (images / i["file_name"]).is_file()]:
        raise AnnotationError(
            f"{len(missing)} of {len(annotations.images)} photographs of {annotations.name} are "
            f"not in {images}: {', '.join(i['file_name'] for i in missing[:5])}"
        )
    given = load_detections(boxes, annotations.category_id) if isinstance(boxes, Path) else {}
    if isinstance(boxes, Path) and not any(i["id"] in given for i in annotations.images):
        raise AnnotationError(f"{boxes.name} has no box in any photograph of {annotations.name}")
    results: list[Result] = []
    for entry in follow(annotations.images):
        image = read_image(images / entry["file_name"])
        if boxes == "gt":
            people = annotations.people(entry["id"])
            if not people:
                continue
            answers = predict(image, [_box(a["bbox"]) for a in people])
            for annotation, person in zip(people, answers, strict=True):
                results.append(_result(annotations, entry, person, person.score))
                results[-1]["ann_id"] = annotation["id"]
        elif isinstance(boxes, Path):
            detections = given.get(entry["id"], [])
            if not detections:
                continue
            answers = predict(image, [box for box, _ in detections])
            for (_, box_score), person in zip(detections, answers, strict=True):
                results.append(_result(annotations, entry, person, person.score * box_score))
        else:
            for person in predict(image, None):
                results.append(_result(annotations, entry, person, person.score))
    return results


def score(
    annotations: Annotations, results: Sequence[Result], *, model: str = "", boxes: str = ""
) -> Scores:
    """AP, AR and PCK of a COCO result list.

    Where every result names the person whose box was given (ann_id), people without labelled
    keypoints do not count in AP. Where any does, PCK compares just the pairs that are named; else
    pairs are made by OKS. Raises AnnotationError for results that do not fit the annotations.
    """
    results = _checked_answers(annotations, results)
    given_boxes = bool(results) and all(r["ann_id"] is not None for r in results)
    stats = _official(annotations, results, given_boxes)
    good, total = _pck_counts(annotations, results)
    names = annotations.skeleton.keypoints
    return Scores(
        model=model,
        boxes=boxes,
        images=len(annotations.images),
        people=sum(len(annotations.people(image["id"])) for image in annotations.images),
        answers=len(results),
        ap=stats[0],
        ap50=stats[1],
        ap75=stats[2],
        ap_medium=stats[3],
        ap_large=stats[4],
        ar=stats[5],
        ar50=stats[6],
        ar75=stats[7],
        ar_medium=stats[8],
        ar_large=stats[9],
        pck=float(good.sum() / max(total.sum(), 1)),
        pck_reference="torso" if _torso(annotations.skeleton) else "box",
        pck_by_keypoint={
            name: float(g / t) for name, g, t in zip(names, good, total, strict=True) if t
        },
    )


def write_results(path: Path, results: Sequence[Result]) -> None:
    """Writes a COCO result file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(list(results), file)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise AnnotationError(f"{path.name} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise AnnotationError(f"{path.name} is no JSON: {error}") from error


def _checked(form: TypeAdapter[Any], value: Any, where: str) -> Any:
    try:
        return form.validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise AnnotationError(f"{where}: {place + ': ' if place else ''}{first['msg']}") from error


def _person(name: str, entry: Mapping[str, Any], category_id: int, count: int) -> dict[str, Any]:
    """The entry as pycocotools needs it; num_keypoints is counted where it was left out."""
    where = f"{name}, annotation {entry.get('id')}"
    person = _checked(_PERSON, entry, where)
    labelled = person.num_keypoints
    if labelled is None:
        labelled = sum(visibility > 0 for visibility in person.keypoints[2::3])
    keypoints = person.keypoints or [0.0] * (3 * count if labelled == 0 else 0)
    if len(keypoints) != 3 * count:
        raise AnnotationError(f"{where}: needs {3 * count} keypoint numbers, has {len(keypoints)}")
    counted = {"category_id": category_id, "num_keypoints": labelled, "keypoints": keypoints}
    return {**person.model_dump(), **counted}


def _checked_answers(annotations: Annotations, results: Sequence[Result]) -> list[Result]:
    """The results, each whole, finite, and of what is annotated."""
    answers = _checked(_ANSWERS, results, "results")
    known = {image["id"] for image in annotations.images}
    if unknown := sorted({answer.image_id for answer in answers} - known):
        raise AnnotationError(
            f"results name images that {annotations.name} does not have: {unknown[:5]}"
        )
    count, category_id = 3 * len(annotations.skeleton.keypoints), annotations.category_id
    for index, answer in enumerate(answers):
        where = f"results: {index}, of image {answer.image_id}:"
        if len(answer.keypoints) != count:
            found = len(answer.keypoints)
            raise AnnotationError(f"{where} needs {count} keypoint numbers, has {found}")
        if answer.category_id != category_id:
            raise AnnotationError(f"{where} is of category {answer.category_id}, not {category_id}")
    return [answer.model_dump() for answer in answers]


def _box(bbox: Sequence[float]) -> Box:
    left, top, width, height = map(float, bbox)
    return (left, top, width, height)


def _result(
    annotations: Annotations, entry: Mapping[str, Any], person: Person, value: float
) -> Result:
    return {
        "image_id": entry["id"],
        "category_id": annotations.category_id,
        "keypoints": [float(v) for v in person.keypoints.ravel()],
        "score": float(value),
    }


def _official(
    annotations: Annotations, results: Sequence[Result], given_boxes: bool
) -> npt.NDArray[np.float64]:
    """The ten numbers of pycocotools' keypoint summary; -1 where nothing could be measured."""
    # Numbered from 1: pycocotools marks an answer with the id of its person, and 0 means nobody.
    people = [
        {**entry, "id": number}
        for number, entry in enumerate(annotations.annotations, start=1)
        if not given_boxes or entry["num_keypoints"] > 0
    ]
    truth = {
        "images": list(annotations.images),
        "annotations": people,
        "categories": [{"id": annotations.category_id, "name": annotations.skeleton.name}],
    }
    if not results:
        return np.zeros(10)
    plain = [{k: r[k] for k in ("image_id", "category_id", "keypoints", "score")} for r in results]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints as it works
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        measure = COCOeval(coco, coco.loadRes(plain), "keypoints")
        measure.params.kpt_oks_sigmas = np.array(annotations.skeleton.sigmas)
        measure.params.catIds = [annotations.category_id]
        measure.params.maxDets = [_MAX_PEOPLE]
        measure.evaluate()
        measure.accumulate()
        measure.summarize()
    return np.asarray(measure.stats, dtype=np.float64)


def _pck_counts(
    annotations: Annotations, results: Sequence[Result]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Per keypoint: how many labelled ones were found within reach, and how many there are."""
    count = len(annotations.skeleton.keypoints)
    good, total = np.zeros(count, np.int64), np.zeros(count, np.int64)
    by_image: dict[int, list[Result]] = {}
    for result in results:
        by_image.setdefault(result["image_id"], []).append(result)
    named = _best_by_person(results)
    for image in annotations.images:
        people = annotations.people(image["id"])
        if named:
            partners = [named.get(person["id"]) for person in people]
        else:
            partners = _likest(people, by_image.get(image["id"], []), annotations.skeleton)
        for person, partner in zip(people, partners, strict=True):
            truth = np.array(person["keypoints"], dtype=np.float64).reshape(count, 3)
            reach = PCK_SHARE * _reference_length(truth, person["bbox"], annotations.skeleton)
            if reach <= 0:
                continue
            labelled = truth[:, 2] > 0
            total += labelled
            if partner is not None:
                found = np.array(partner["keypoints"]).reshape(count, 3)
                away = np.linalg.norm(truth[:, :2] - found[:, :2], axis=1)
                good += labelled & (away <= reach)
    return good, total


def _best_by_person(results: Sequence[Result]) -> dict[int, Result]:
    """The best answer for each person whom answers name by ann_id; of equals the first."""
    best: dict[int, Result] = {}
    for result in results:
        person = result["ann_id"]
        if person is not None and result["score"] > best.get(person, _NOBODY)["score"]:
            best[person] = result
    return best


def _likest(
    people: Sequence[Mapping[str, Any]], results: Sequence[Result], skeleton: Skeleton
) -> list[Result | None]:
    """The answer that belongs to each annotated person: the likest by OKS, each used once."""
    pairs = sorted(
        (
            (_oks_of(person, result, skeleton), i, j)
            for i, person in enumerate(people)
            for j, result in enumerate(results)
        ),
        reverse=True,
    )
    partners: list[Result | None] = [None] * len(people)
    taken: set[int] = set()
    for likeness, i, j in pairs:
        if likeness > 0 and partners[i] is None and j not in taken:
            partners[i] = results[j]
            taken.add(j)
    return partners


def _oks_of(person: Mapping[str, Any], result: Result, skeleton: Skeleton) -> float:
    """OKS of one answer against one annotated person, over labelled keypoints."""
    truth = np.array(person["keypoints"], dtype=np.float64).reshape(-1, 3)
    found = np.array(result["keypoints"], dtype=np.float64).reshape(-1, 3)
    labelled = truth[:, 2] > 0
    squared = ((truth[:, :2] - found[:, :2]) ** 2).sum(axis=1)
    spread = 2 * person["area"] * (2 * np.array(skeleton.sigmas)) ** 2 + np.spacing(1)
    return float(np.exp(-squared / spread)[labelled].mean())


def _torso(skeleton: Skeleton) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Both diagonals from shoulder to hip, as indices; None for other bodies."""
    index = {name: i for i, name in enumerate(skeleton.keypoints)}
    ends = ("left_shoulder", "right_hip", "right_shoulder", "left_hip")
    if not all(end in index for end in ends):
        return None
    return (index[ends[0]], index[ends[1]]), (index[ends[2]], index[ends[3]])


def _reference_length(
    truth: npt.NDArray[np.float64], bbox: Sequence[float], skeleton: Skeleton
) -> float:
    """Longer labelled torso diagonal in pixels, or the box's longer side; 0 leaves a person out."""
    diagonals = _torso(skeleton)
    if diagonals is None:
        return float(max(bbox[2], bbox[3]))
    lengths = [
        float(np.linalg.norm(truth[a, :2] - truth[b, :2]))
        for a, b in diagonals
        if truth[a, 2] > 0 and truth[b, 2] > 0
    ]
    longest = max(lengths, default=0.0)
    return longest if longest >= 1 else 0.0
