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
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from pydantic import (
    BaseModel,
    ConfigDict,
    FiniteFloat,
    TypeAdapter,
)

from heads.files import write_whole
from heads.geometry import BOX_PADDING, Size, padded_box
from heads.image import read_image
from heads.person import Person
from heads.skeleton import COCO_17, Skeleton
from heads.suppression import rescore_and_suppress
from training import metrics
from training.annotations import Annotations, Box, Id, checked, load_detections
from training.checks import has_area
from training.errors import AnnotationError

BoxesFrom = Literal["gt", "detector"]
Predict = Callable[[Any, Sequence[Box] | None], Sequence[Person]]
"""An image as it was read, boxes where they are given -> people; with boxes one a box, in order."""

Result = dict[str, Any]
"""One entry of a COCO result list: image_id, category_id, keypoints [x, y, score] * K, score, and
ann_id where the annotated person's box was given."""

_NOBODY: Result = {"score": -np.inf}
_MEDIUM, _LARGE = (32.0**2, 96.0**2), (96.0**2, 1e10)
_OFFICIAL_ASPECT = 3 / 4  # of the published crops, whose areas tell how alike people are
_MAX_PEOPLE = 20  # the official measure counts so many answers a photograph, of COCO's people


class Scores(BaseModel):
    """What a network is worth on a set of annotated photographs; all shares lie in 0..1.

    boxes: which boxes the people were looked for in.
    ap, ar: mean over OKS thresholds 0.50 to 0.95; -1 where there is nobody of that size. medium
        and large: people of 32**2 to 96**2 square pixels, and above.
    pck: share of labelled keypoints within a fifth of the torso (or, for skeletons without
        shoulders and hips, of the box's longer side), as pck_reference says.
    pckh, auc, epe_px: see `training.metrics`.
    pck, pckh, auc, epe_px: None where there is nothing to hold answers against.
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
    pck: float | None
    pck_reference: str
    pck_by_keypoint: dict[str, float]
    pckh: float | None
    auc: float | None
    epe_px: float | None

    @property
    def noted(self) -> dict[str, float | str]:
        """What a training run writes down of an epoch."""
        known = {} if self.pck is None else {"pck": self.pck}
        return {"ap": self.ap, "ap50": self.ap50, **known, "boxes": self.boxes}


class _Answer(BaseModel):
    image_id: Id
    category_id: int
    keypoints: list[FiniteFloat]
    score: FiniteFloat
    ann_id: Id | None = None


_ANSWERS = TypeAdapter(list[_Answer])


def predict_all(
    annotations: Annotations,
    images: Path,
    predict: Predict,
    boxes: BoxesFrom | Path,
    *,
    follow: Callable[[Sequence[Mapping[str, Any]]], Iterable[Mapping[str, Any]]] = iter,
    read: Callable[[Path], Any] = read_image,
) -> list[Result]:
    """What `predict` answers to every annotated photograph, as a COCO result list.

    boxes: `gt` gives the boxes of annotated people, `detector` gives none, a file gives its own;
        people in those are scored and sorted out as by the official HRNet evaluation
        (`heads.suppression.rescore_and_suppress`), as for its results with detected boxes.
    follow: wraps the list of images, to show progress.
    read: makes of a file what `predict` takes.
    Boxes of a file of which no more than a pixel lies in the photograph hold nobody.
    Raises AnnotationError for an annotated box like that, for a photograph of another size than is
    annotated, and before anything is predicted where photographs are missing, and where no box of a
    file is of any of them.
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
    if boxes == "gt":
        for entry in annotations.images:
            if (size := _annotated_size(entry)) is not None:
                _check_boxes(annotations, entry, size)
    for entry in follow(annotations.images):
        image = read(images / entry["file_name"])
        size = (image.shape[0], image.shape[1])
        if _annotated_size(entry) not in (None, size):
            raise AnnotationError(
                f"{entry['file_name']} is {size[1]} x {size[0]} pixels, annotated as "
                f"{entry['width']} x {entry['height']}"
            )
        if boxes == "gt":
            _check_boxes(annotations, entry, size)
            people = annotations.people(entry["id"])
            if not people:
                continue
            answers = predict(image, [_box(a["bbox"]) for a in people])
            for annotation, person in zip(people, answers, strict=True):
                results.append(_result(annotations, entry, person, person.score))
                results[-1]["ann_id"] = annotation["id"]
        elif isinstance(boxes, Path):
            found = given.get(entry["id"], [])
            detections = [(box, value) for box, value in found if has_area(box, size)]
            if not detections:
                continue
            answers = predict(image, [box for box, _ in detections])
            for person, value in _kept(annotations.skeleton, detections, answers):
                results.append(_result(annotations, entry, person, value))
        else:
            for person in predict(image, None):
                results.append(_result(annotations, entry, person, person.score))
    return results


def _annotated_size(entry: Mapping[str, Any]) -> Size | None:
    """(height, width), where both are known."""
    height, width = entry["height"], entry["width"]
    return None if None in (height, width) else (height, width)


def _check_boxes(annotations: Annotations, entry: Mapping[str, Any], size: Size) -> None:
    for person in annotations.people(entry["id"]):
        if not has_area(person["bbox"], size):
            raise AnnotationError(
                f"{annotations.name}, annotation {person['id']}: no more than a pixel of the box "
                f"{list(person['bbox'])} lies in {entry['file_name']}, {size[1]} x {size[0]} pixels"
            )


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
    people = _distances(annotations, results)
    found = metrics.pck(people, annotations.skeleton)
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
        pck=found.share,
        pck_reference=found.reference,
        pck_by_keypoint=dict(found.by_keypoint),
        pckh=metrics.pckh(people),
        auc=metrics.auc(people),
        epe_px=metrics.epe(people),
    )


def write_results(path: Path, results: Sequence[Result]) -> None:
    """Writes a COCO result file whole or not at all."""
    write_whole(path, json.dumps(list(results)).encode())


def _checked_answers(annotations: Annotations, results: Sequence[Result]) -> list[Result]:
    """The results, each whole, finite, and of what is annotated."""
    answers = checked(_ANSWERS, results, "results")
    known = {image["id"] for image in annotations.images}
    if unknown := sorted({answer.image_id for answer in answers} - known, key=str):
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


def _kept(
    skeleton: Skeleton, detections: Sequence[tuple[Box, float]], people: Sequence[Person]
) -> list[tuple[Person, float]]:
    """Who stays of the people in detected boxes, one a box, with their new scores."""
    crops = [padded_box(box, _OFFICIAL_ASPECT, BOX_PADDING)[1] for box, _ in detections]
    kept = rescore_and_suppress(
        np.stack([person.keypoints for person in people]),
        np.array([value for _, value in detections]),
        np.prod(crops, axis=1),
        sigmas=np.array(skeleton.sigmas),
    )
    return [(people[place.index], place.score) for place in kept]


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
    # Images as well: it sorts their ids, which may be numbers and words.
    images = {image["id"]: number for number, image in enumerate(annotations.images, start=1)}
    people = [
        {**entry, "id": number, "image_id": images[entry["image_id"]]}
        for number, entry in enumerate(annotations.annotations, start=1)
        if not given_boxes or entry["num_keypoints"] > 0
    ]
    truth = {
        "images": [{"id": number} for number in images.values()],
        "annotations": people,
        "categories": [{"id": annotations.category_id, "name": annotations.skeleton.name}],
    }
    if not results:
        return _nothing_found(
            [a["area"] for a in people if a["num_keypoints"] and not a["iscrowd"]]
        )
    plain = [
        {k: r[k] for k in ("category_id", "keypoints", "score")}
        | {"image_id": images[r["image_id"]]}
        for r in results
    ]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints as it works
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        measure = COCOeval(coco, coco.loadRes(plain), "keypoints")
        measure.params.kpt_oks_sigmas = np.array(annotations.skeleton.sigmas)
        measure.params.catIds = [annotations.category_id]
        measure.params.maxDets = [_most_answers(annotations)]
        measure.evaluate()
        measure.accumulate()
    return _ten_numbers(measure)


def _most_answers(annotations: Annotations) -> int:
    """So many of a photograph are counted: as many as are annotated, but of COCO's people 20."""
    if annotations.skeleton.keypoints == COCO_17.keypoints:
        return _MAX_PEOPLE
    alike = Counter(entry["image_id"] for entry in annotations.annotations)
    return max((_MAX_PEOPLE, *alike.values()))


def _ten_numbers(measure: Any) -> npt.NDArray[np.float64]:
    """AP, AP50, AP75, AP M, AP L, then the same of AR, from what pycocotools has accumulated.

    Its own summary knows of 20 answers a photograph only.
    """
    thresholds = measure.params.iouThrs
    numbers = []
    for table in (measure.eval["precision"], measure.eval["recall"][:, None]):
        of_all, medium, large = np.moveaxis(table[..., 0], -1, 0)  # each [T, recalls, categories]
        fifty, seventy_five = (of_all[np.isclose(thresholds, t)] for t in (0.5, 0.75))
        for values in (of_all, fifty, seventy_five, medium, large):
            known = values[values > -1]
            numbers.append(known.mean() if known.size else -1.0)
    return np.array(numbers, dtype=np.float64)


def _nothing_found(areas: Sequence[float]) -> npt.NDArray[np.float64]:
    """Those ten numbers where there are no answers, which pycocotools does not read."""
    medium, large = (any(low <= a <= high for a in areas) for low, high in (_MEDIUM, _LARGE))
    there = [bool(areas)] * 3 + [medium, large]
    return np.where(there * 2, 0.0, -1.0)


def _distances(annotations: Annotations, results: Sequence[Result]) -> list[metrics.Distances]:
    """How far each annotated person's answer is off."""
    count = len(annotations.skeleton.keypoints)
    by_image: dict[Id, list[Result]] = {}
    for result in results:
        by_image.setdefault(result["image_id"], []).append(result)
    named = _best_by_person(results)
    people = []
    for image in annotations.images:
        annotated = annotations.people(image["id"])
        if named:
            partners = [named.get(person["id"]) for person in annotated]
        else:
            partners = _likest(annotated, by_image.get(image["id"], []), annotations.skeleton)
        for person, partner in zip(annotated, partners, strict=True):
            truth = np.array(person["keypoints"], dtype=np.float64).reshape(count, 3)
            found = None
            if partner is not None:
                found = np.array(partner["keypoints"], dtype=np.float64).reshape(count, 3)
            skeleton = annotations.skeleton
            people.append(metrics.distances(truth, found, person["bbox"], skeleton))
    return people


def _best_by_person(results: Sequence[Result]) -> dict[Id, Result]:
    """The best answer for each person whom answers name by ann_id; of equals the first."""
    best: dict[Id, Result] = {}
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
    return float(metrics.oks(squared, person["area"], skeleton.sigmas)[labelled].mean())
