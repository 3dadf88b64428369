"""Scores equal to pycocotools' own, and words for files that cannot be used."""

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heads.image import encode_image
from heads.person import Person
from heads.skeleton import COCO_17
from training.evaluate import (
    AnnotationError,
    Annotations,
    Box,
    load_annotations,
    load_detections,
    predict_all,
    score,
    write_results,
)


def person(identity: int, image: int, left: float) -> dict[str, Any]:
    """An annotated person, 40 x 100 pixels, all keypoints labelled."""
    rng = np.random.default_rng(identity)
    points = rng.uniform([left, 10], [left + 40, 110], (17, 2))
    points[[5, 6]] = [[left + 30, 30], [left + 10, 30]]
    points[[11, 12]] = [[left + 27, 70], [left + 13, 70]]
    return {
        "id": identity,
        "image_id": image,
        "category_id": 1,
        "bbox": [left, 10.0, 40.0, 100.0],
        "area": 2100.0,
        "iscrowd": 0,
        "num_keypoints": 17,
        "keypoints": [float(v) for v in np.column_stack([points, np.full(17, 2)]).ravel()],
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two photographs with three people, and a file of annotations."""
    people = [person(1, 7, 10), person(2, 7, 120), person(3, 8, 60)]
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 200, "height": 120} for i in (7, 8)],
        "annotations": people,
        "categories": [{"id": 1, "name": "person", "keypoints": list(COCO_17.keypoints)}],
    }
    (tmp_path / "people.json").write_text(json.dumps(content))
    for i in (7, 8):
        (tmp_path / f"{i}.png").write_bytes(
            encode_image(np.full((120, 200, 3), i, np.uint8), "png")
        )
    return tmp_path


def truth_of(annotations: Annotations, image: int) -> list[Person]:
    people = annotations.people(image)
    return [
        Person(
            np.array(a["keypoints"], np.float32).reshape(17, 3) * np.array([1, 1, 0.4], np.float32),
            0.9,
            (a["bbox"][0], a["bbox"][1], a["bbox"][2], a["bbox"][3]),
        )
        for a in people
    ]


def test_perfect_answers_score_1(folder: Path) -> None:
    annotations = load_annotations(folder / "people.json")

    def perfect(image: Any, boxes: Sequence[Box] | None) -> list[Person]:
        people = truth_of(annotations, int(image[0, 0, 0]))
        assert boxes is None or list(boxes) == [p.box_xywh for p in people]
        return people

    for boxes in ("gt", "detector"):
        results = predict_all(annotations, folder, perfect, boxes)
        scores = score(annotations, results, model="perfect", boxes=boxes)
        assert scores.ap == pytest.approx(1)
        assert scores.pck == 1
        assert (scores.images, scores.people, scores.answers) == (2, 3, 3)
        assert ("ann_id" in results[0]) == (boxes == "gt")


def test_swapped_sides_score_low(folder: Path) -> None:
    annotations = load_annotations(folder / "people.json")

    def swapped(image: Any, boxes: Sequence[Box] | None) -> list[Person]:
        del boxes
        return [
            Person(p.keypoints[list(COCO_17.flip_order)], p.score, p.box_xywh)
            for p in truth_of(annotations, int(image[0, 0, 0]))
        ]

    scores = score(annotations, predict_all(annotations, folder, swapped, "gt"))
    assert scores.ap < 0.2
    assert scores.pck < 0.5
    assert scores.pck_by_keypoint["nose"] == 1


def test_a_detections_file_gives_boxes_and_scores(folder: Path) -> None:
    annotations = load_annotations(folder / "people.json")
    detections = folder / "boxes.json"
    detections.write_text(
        json.dumps([{"image_id": 8, "category_id": 1, "bbox": [60, 10, 40, 100], "score": 0.5}])
    )
    seen: list[Any] = []

    def one(image: Any, boxes: Sequence[Box] | None) -> list[Person]:
        seen.append(boxes)
        return truth_of(annotations, int(image[0, 0, 0]))

    results = predict_all(annotations, folder, one, detections)
    assert seen == [[(60, 10, 40, 100)]]
    assert results[0]["score"] == pytest.approx(0.45)
    assert score(annotations, results).ap == pytest.approx(1 / 3, abs=0.02)


def test_no_answers_score_0(folder: Path) -> None:
    annotations = load_annotations(folder / "people.json")
    scores = score(annotations, predict_all(annotations, folder, lambda *_: [], "detector"))
    assert scores.ap == 0
    assert scores.pck == 0


def test_scores_are_those_of_the_reference_script(shared: Path) -> None:
    """Noisy copies of the true people, measured by the script that came with the photographs."""
    spec = importlib.util.spec_from_file_location("reference_score", shared / "data" / "score.py")
    assert spec is not None
    assert spec.loader is not None
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    path = shared / "data" / "val" / "val.json"
    annotations = load_annotations(path)
    rng = np.random.default_rng(0)
    for with_ids in (True, False):
        results = []
        for image in annotations.images:
            for a in annotations.people(image["id"]):
                points = np.array(a["keypoints"], float).reshape(17, 3)
                points[:, :2] += rng.normal(0, 0.05 * np.sqrt(a["area"]), (17, 2))
                points[:, 2] = rng.uniform(0.2, 1, 17)
                result = {
                    "image_id": image["id"],
                    "category_id": 1,
                    "keypoints": [float(v) for v in points.ravel()],
                    "score": float(rng.uniform()),
                }
                results.append(result | ({"ann_id": a["id"]} if with_ids else {}))
        expected = reference.score(results, str(path))
        ours = score(annotations, results)
        names = (("AP", "ap"), ("AP50", "ap50"), ("AP75", "ap75"), ("AR", "ar"), ("AR50", "ar50"))
        # The script rounds to four digits.
        for theirs, name in (*names, ("AP_medium", "ap_medium"), ("AP_large", "ap_large")):
            assert getattr(ours, name) == pytest.approx(expected[theirs], abs=6e-5), theirs
        assert ours.pck == pytest.approx(expected["PCK@0.2_torso"], abs=6e-5)
        assert 0.2 < ours.ap < 0.95


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no JSON"),
        ("[]", "no fields"),
        ('{"images": []}', "no list of annotations"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1}]}', "no category with"),
    ],
)
def test_files_that_are_no_annotations_are_refused(
    tmp_path: Path, content: str, message: str
) -> None:
    path = tmp_path / "bad.json"
    path.write_text(content)
    with pytest.raises(AnnotationError, match=rf"bad\.json.*{message}"):
        load_annotations(path)


def test_a_short_keypoint_list_is_refused_with_its_id(folder: Path) -> None:
    path = folder / "people.json"
    content = json.loads(path.read_text())
    content["annotations"][1]["keypoints"] = [1, 2, 2]
    path.write_text(json.dumps(content))
    with pytest.raises(AnnotationError, match="annotation 2 needs 51 keypoint numbers"):
        load_annotations(path)


def test_results_that_cannot_be_scored_are_refused(folder: Path) -> None:
    annotations = load_annotations(folder / "people.json")
    result = {"image_id": 99, "category_id": 1, "keypoints": [0.0] * 51, "score": 0.5}
    with pytest.raises(AnnotationError, match=r"does not have: \[99\]"):
        score(annotations, [result])
    with pytest.raises(AnnotationError, match="image 7 is not finite"):
        score(annotations, [result | {"image_id": 7, "score": float("nan")}])
    with pytest.raises(AnnotationError, match=r"gone\.json cannot be read"):
        load_annotations(folder / "gone.json")
    with pytest.raises(AnnotationError, match="no COCO detection list"):
        load_detections(folder / "people.json")


def test_results_are_written_whole(folder: Path) -> None:
    path = folder / "out" / "results.json"
    write_results(path, [{"image_id": 7}])
    assert json.loads(path.read_text()) == [{"image_id": 7}]
    assert list(path.parent.iterdir()) == [path]
