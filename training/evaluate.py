"""How good a network is: the official COCO keypoint measure, and PCK, from what it answered.

    photographs --predict--> people --results--> COCO result list --score--> Scores

`predict` is a function from an image (and boxes, where they are given) to people, so the same code
measures a network in training and the server's whole pipeline. Every score says which boxes were
used: with the annotated boxes (`gt`) nobody can be missed, so those figures are always higher.

AP and AR are computed by pycocotools, by OKS, over 10 thresholds from 0.50 to 0.95.
"""

import contextlib
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from pydantic import BaseModel, ConfigDict

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
_MAX_PEOPLE = 20  # the official measure counts so many answers a photograph


class AnnotationError(HrposeError):
    """Annotations, detections or results that cannot be used; names the file and the entry."""


class Scores(BaseModel):
    """What a network is worth on a set of annotated photographs; all shares lie in 0..1.

    boxes: which boxes the people were looked for in.
    ap, ar: mean over OKS thresholds 0.50 to 0.95; -1 where there is nobody of that size.
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
    pck: float
    pck_reference: str
    pck_by_keypoint: dict[str, float]


@dataclass(frozen=True)
class Annotations:
    """A COCO keypoint file: its content, and the category that is measured."""

    name: str
    content: Mapping[str, Any]
    category_id: int
    skeleton: Skeleton

    @property
    def images(self) -> Sequence[Mapping[str, Any]]:
        """Entries with id and file_name."""
        images: Sequence[Mapping[str, Any]] = self.content["images"]
        return images

    def people(self, image_id: int) -> list[Mapping[str, Any]]:
        """Annotated people of one image who have labelled keypoints and are no crowd."""
        return [
            a
            for a in self.content["annotations"]
            if a["image_id"] == image_id and a.get("num_keypoints", 0) > 0 and not a.get("iscrowd")
        ]


def load_annotations(path: Path) -> Annotations:
    """Reads a COCO keypoint file; AnnotationError says what is wrong with it."""
    content = _read_json(path)
    if not isinstance(content, dict):
        raise AnnotationError(f"{path.name} is no COCO file: it has no fields")
    for field in ("images", "annotations", "categories"):
        if not isinstance(content.get(field), list):
            raise AnnotationError(f"{path.name} is no COCO file: it has no list of {field}")
    with_keypoints = [c for c in content["categories"] if c.get("keypoints")]
    if not with_keypoints:
        raise AnnotationError(f"{path.name} has no category with keypoints")
    category = with_keypoints[0]
    skeleton = Skeleton.from_coco_category(category)
    count = 3 * len(skeleton.keypoints)
    for annotation in content["annotations"]:
        keypoints = annotation.get("keypoints")
        if annotation.get("num_keypoints", 0) > 0 and (
            not isinstance(keypoints, list) or len(keypoints) != count
        ):
            raise AnnotationError(
                f"{path.name}: annotation {annotation.get('id')} needs {count} keypoint numbers"
            )
    return Annotations(path.name, content, category["id"], skeleton)


def load_detections(path: Path) -> dict[int, list[tuple[Box, float]]]:
    """Reads a COCO detection list: image id -> boxes [left, top, width, height] and scores."""
    content = _read_json(path)
    found: dict[int, list[tuple[Box, float]]] = {}
    try:
        for entry in content:
            left, top, width, height = map(float, entry["bbox"])
            boxes = found.setdefault(int(entry["image_id"]), [])
            boxes.append(((left, top, width, height), float(entry["score"])))
    except (TypeError, KeyError, ValueError) as error:
        raise AnnotationError(f"{path.name} is no COCO detection list: {error!r}") from error
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
    """
    given = load_detections(boxes) if isinstance(boxes, Path) else {}
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
    keypoints do not count, and PCK compares just those pairs; else pairs are made by OKS.
    """
    known = {image["id"] for image in annotations.images}
    unknown = sorted({r["image_id"] for r in results} - known)
    if unknown:
        raise AnnotationError(
            f"results name images that {annotations.name} does not have: {unknown[:5]}"
        )
    for result in results:
        if not np.isfinite([*result["keypoints"], result["score"]]).all():
            raise AnnotationError(f"a result of image {result['image_id']} is not finite")
    given_boxes = bool(results) and all(r.get("ann_id") is not None for r in results)
    stats = _official(annotations, results, given_boxes)
    good, total = _pck_counts(annotations, results)
    names = annotations.skeleton.keypoints
    return Scores(
        model=model,
        boxes=boxes,
        images=len(known),
        people=sum(len(annotations.people(i)) for i in known),
        answers=len(results),
        ap=stats[0],
        ap50=stats[1],
        ap75=stats[2],
        ap_medium=stats[3],
        ap_large=stats[4],
        ar=stats[5],
        ar50=stats[6],
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
    truth = dict(annotations.content)
    if given_boxes:
        truth["annotations"] = [a for a in truth["annotations"] if a.get("num_keypoints", 0) > 0]
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
    for image in annotations.images:
        people = annotations.people(image["id"])
        partners = _partners(people, by_image.get(image["id"], []), annotations.skeleton)
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


def _partners(
    people: Sequence[Mapping[str, Any]], results: Sequence[Result], skeleton: Skeleton
) -> list[Result | None]:
    """The answer that belongs to each annotated person: by ann_id, else the likest by OKS."""
    if results and all(r.get("ann_id") is not None for r in results):
        by_id: dict[int, Result] = {}
        for result in sorted(results, key=lambda r: r["score"]):
            by_id[result["ann_id"]] = result
        return [by_id.get(person["id"]) for person in people]
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
