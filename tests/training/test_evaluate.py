"""Scores equal to pycocotools' own, and words for files that cannot be used."""

import contextlib
import importlib.util
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from commands.evaluate import results_name
from heads.image import encode_image
from heads.person import Person
from heads.skeleton import COCO_17, Skeleton
from training.annotations import (
    Annotations,
    Box,
    Id,
    load_annotations,
    load_detections,
)
from training.errors import AnnotationError
from training.evaluate import predict_all, score, write_results


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


def changed(folder: Path, change: Callable[[Any], Any]) -> Path:
    """The file of annotations after a change to its content."""
    path = folder / "changed.json"
    content = json.loads((folder / "people.json").read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


def noisy(annotations: Annotations, share: float, copies: int = 1) -> list[dict[str, Any]]:
    """Answers to every annotated person, off by that share of its size, of random scores."""
    rng = np.random.default_rng(0)
    results = []
    for image in annotations.images:
        for a in annotations.people(image["id"]) * copies:
            points = np.array(a["keypoints"], float).reshape(17, 3)
            points[:, :2] += rng.normal(0, share * np.sqrt(a["area"]), (17, 2))
            points[:, 2] = rng.uniform(0.2, 1, 17)
            results.append(
                {
                    "image_id": image["id"],
                    "category_id": 1,
                    "keypoints": [float(v) for v in points.ravel()],
                    "score": float(rng.uniform()),
                    "ann_id": a["id"],
                }
            )
    return results


def without_ids(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in r.items() if k != "ann_id"} for r in results]


def truth_of(annotations: Annotations, image: Id) -> list[Person]:
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
    assert scores.pck is not None
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
    assert results[0]["score"] == pytest.approx(0.5 * 0.8)
    assert score(annotations, results).ap == pytest.approx(1 / 3, abs=0.02)


def test_people_in_detected_boxes_are_kept_and_scored_as_officially(folder: Path) -> None:
    """Box score times the mean of keypoint scores above 0.2; no second answer of OKS above 0.9."""
    annotations = load_annotations(folder / "people.json")
    boxes = [[60, 10, 40, 100], [61, 11, 40, 100], [60, 10, 45, 100]]
    detections = folder / "three_boxes.json"
    found = [
        {"image_id": 8, "category_id": 1, "bbox": box, "score": value}
        for box, value in zip(boxes, (0.5, 0.8, 0.6), strict=True)
    ]
    detections.write_text(json.dumps(found))
    points = truth_of(annotations, 8)[0].keypoints.copy()
    points[:, 2] = [0.9] * 4 + [0.6] * 4 + [0.1] * 9
    elsewhere = points + np.array([30, 0, 0], np.float32)

    def three(_: Any, boxes: Sequence[Box] | None) -> list[Person]:
        assert boxes is not None
        answers = [points, points + np.array([1, 0, 0], np.float32), elsewhere]
        return [Person(p, 0.1, box) for p, box in zip(answers, boxes, strict=True)]

    results = predict_all(annotations, folder, three, detections)
    assert [r["score"] for r in results] == pytest.approx([0.8 * 0.75, 0.6 * 0.75])
    assert results[0]["keypoints"][0] == points[0, 0] + 1  # the surer box's answer
    assert results[1]["keypoints"][0] == elsewhere[0, 0]


def test_no_answers_score_0(folder: Path) -> None:
    annotations = load_annotations(folder / "people.json")
    scores = score(annotations, predict_all(annotations, folder, lambda *_: [], "detector"))
    assert scores.ap == 0
    assert scores.pck == 0
    assert scores.noted == {"ap": 0, "ap50": 0, "pck": 0, "boxes": ""}
    assert "pck" not in scores.model_copy(update={"pck": None}).noted


@pytest.mark.parametrize("pairs", ["named", "by likeness", "some named", "named, equal scores"])
def test_scores_are_those_of_the_reference_script(shared: Path, pairs: str) -> None:
    """Noisy copies of the true people, measured by the script that came with the photographs."""
    spec = importlib.util.spec_from_file_location("reference_score", shared / "data" / "score.py")
    assert spec is not None
    assert spec.loader is not None
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    path = shared / "data" / "val" / "val.json"
    annotations = load_annotations(path)
    results = noisy(annotations, 0.05, copies=2)
    if pairs == "by likeness":
        results = without_ids(results)
    elif pairs == "some named":
        results = [*results[::3], *without_ids(results[1::3])]
    elif pairs == "named, equal scores":
        results = [r | {"score": 0.5} for r in results]
    expected = reference.score(results, str(path))
    ours = score(annotations, results)
    names = (("AP", "ap"), ("AP50", "ap50"), ("AP75", "ap75"), ("AR", "ar"), ("AR50", "ar50"))
    # The script rounds to four digits.
    for theirs, name in (*names, ("AP_medium", "ap_medium"), ("AP_large", "ap_large")):
        assert getattr(ours, name) == pytest.approx(expected[theirs], abs=6e-5), theirs
    assert ours.pck == pytest.approx(expected["PCK@0.2_torso"], abs=6e-5)
    assert 0.1 < ours.ap < 0.95


def test_figures_are_those_of_pycocotools_alone(folder: Path) -> None:
    annotations = load_annotations(folder / "people.json")
    results = noisy(annotations, 0.06)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(folder / "people.json"))
        measure = COCOeval(truth, truth.loadRes(without_ids(results)), "keypoints")
        measure.evaluate()
        measure.accumulate()
        measure.summarize()
    ours = score(annotations, results)
    figures = (
        *(ours.ap, ours.ap50, ours.ap75, ours.ap_medium, ours.ap_large),
        *(ours.ar, ours.ar50, ours.ar75, ours.ar_medium, ours.ar_large),
    )
    assert figures == tuple(measure.stats)
    assert 0.1 < ours.ap < 0.95


def test_a_person_numbered_0_counts_as_any_other(folder: Path) -> None:
    path = changed(folder, lambda c: c["annotations"][0].update(id=0))
    annotations = load_annotations(path)
    results = predict_all(
        annotations, folder, lambda i, _: truth_of(annotations, int(i[0, 0, 0])), "gt"
    )
    assert score(annotations, results).ap == pytest.approx(1)


def test_crowds_and_people_without_labels_cost_nothing_with_annotated_boxes(folder: Path) -> None:
    def add(content: Any) -> None:
        crowd = person(4, 7, 60) | {"iscrowd": 1}
        unlabelled = person(5, 8, 10) | {"num_keypoints": 0, "keypoints": [0] * 51}
        content["annotations"] += [crowd, unlabelled]

    annotations = load_annotations(changed(folder, add))
    results = predict_all(
        annotations, folder, lambda i, _: truth_of(annotations, int(i[0, 0, 0])), "gt"
    )
    scores = score(annotations, results)
    assert scores.ap == pytest.approx(1)
    assert scores.people == 3


@pytest.mark.parametrize("area", [0, -5, None, "large", float("nan"), "missing"])
def test_an_area_that_says_nothing_stands_for_none(folder: Path, area: Any) -> None:
    def no_area(content: Any) -> None:
        content["categories"][0] |= {"name": None, "skeleton": None}
        for a in content["annotations"]:
            a["area"] = area
            if area == "missing":
                del a["area"]

    annotations = load_annotations(changed(folder, no_area))
    results = predict_all(
        annotations, folder, lambda i, _: truth_of(annotations, int(i[0, 0, 0])), "gt"
    )
    assert score(annotations, results).ap == pytest.approx(1)


def test_ids_of_categories_may_be_text_and_those_of_images_must_be_there(folder: Path) -> None:
    def as_text(content: Any) -> None:
        content["categories"][0]["id"] = "1"
        for a in content["annotations"]:
            a["category_id"] = "1"

    before = len(load_annotations(changed(folder, lambda _: None)).annotations)
    assert len(load_annotations(changed(folder, as_text)).annotations) == before
    path = changed(folder, lambda c: c["annotations"][0].update(image_id=404))
    with pytest.raises(AnnotationError, match="is of image 404, which is not in the list"):
        load_annotations(path)


def three_points(content: Any) -> None:
    """Makes the people bodies of three keypoints, and adds a category that has no keypoints."""
    content["categories"] = [{"id": 4, "name": "box"}, {"id": 2, "name": "bee", "keypoints": BEE}]
    for a in content["annotations"]:
        a.update(category_id=2, keypoints=a["keypoints"][:9])
        del a["num_keypoints"], a["iscrowd"]
    content["annotations"].append(
        {"id": 50, "image_id": 7, "category_id": 4, "bbox": [0, 0, 9, 9], "keypoints": "none"}
    )


BEE = ["head", "left_wing", "right_wing"]


def test_any_body_is_measured_by_the_sigmas_of_its_skeleton(folder: Path) -> None:
    path = changed(folder, three_points)
    found = []
    for sigma in (0.02, 0.2):
        bee = Skeleton(name="bee", keypoints=tuple(BEE), sigmas=(sigma,) * 3)
        annotations = load_annotations(path, skeleton=bee)
        results = [
            {
                "image_id": a["image_id"],
                "category_id": 2,
                # Every keypoint is off by a tenth of the person's size.
                "keypoints": [v + (0.1 * np.sqrt(a["area"]) if i % 3 == 0 else 0)
                              for i, v in enumerate(a["keypoints"])],
                "score": 0.5,
            }
            for a in annotations.annotations
        ]  # fmt: skip
        scores = score(annotations, results)
        # OKS = exp(-0.1**2 / (2 * (2 * sigma)**2)): 0.044 and 0.969.
        found.append(scores.ap)
        assert scores.pck_reference == "box"
        assert scores.pck == 1
        assert list(scores.pck_by_keypoint) == BEE
    assert found == pytest.approx([0, 1])


def test_a_skeleton_of_other_keypoints_is_refused(folder: Path) -> None:
    with pytest.raises(AnnotationError, match=r"\['head', 'left_wing'.*skeleton coco_17 has"):
        load_annotations(changed(folder, three_points), skeleton=COCO_17)


def test_missing_photographs_are_said_before_any_is_looked_at(folder: Path) -> None:
    annotations = load_annotations(folder / "people.json")
    (folder / "8.png").unlink()
    asked: list[Any] = []

    def note(*given: Any) -> list[Person]:
        asked.append(given)
        return []

    with pytest.raises(AnnotationError, match=r"1 of 2 photographs of people\.json .*: 8\.png"):
        predict_all(annotations, folder, note, "detector")
    with pytest.raises(AnnotationError, match=r"2 of 2 .*elsewhere"):
        predict_all(annotations, folder / "elsewhere", note, "detector")
    assert asked == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no JSON"),
        ("[]", "no COCO keypoint file"),
        ('{"images": [], "categories": []}', "annotations: Field required"),
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
    with pytest.raises(AnnotationError, match="annotation 2: needs 51 keypoint numbers, has 3"):
        load_annotations(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["annotations"][1].pop("bbox"), "annotation 2: bbox: Field required"),
        (lambda c: c["annotations"][1].pop("image_id"), "annotation 2: image_id: Field required"),
        (lambda c: c["annotations"][1].update(id=1), "more than one annotation with id 1"),
        (lambda c: c["annotations"].append(3), r"annotations\.3: .*dictionary"),
        (lambda c: c["images"][1].pop("id"), r"images\.1\.id: Field required"),
        (lambda c: c["images"][1].pop("file_name"), r"images\.1\.file_name: Field required"),
        (lambda c: c["images"][1].update(id=7), "more than one image with id 7"),
        (
            lambda c: c["annotations"][0]["keypoints"].__setitem__(3, float("nan")),
            r"annotation 1: keypoints\.3: .*finite",
        ),
    ],
)
def test_an_entry_that_cannot_be_used_is_named(
    folder: Path, change: Callable[[Any], Any], message: str
) -> None:
    with pytest.raises(AnnotationError, match=message):
        load_annotations(changed(folder, change))


def test_detections_of_other_things_and_without_area_are_left_out(folder: Path) -> None:
    path = folder / "boxes.json"
    box = {"image_id": 8, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}
    path.write_text(json.dumps([box, box | {"category_id": 18}, box | {"bbox": [1, 2, 0, 4]}, box]))
    assert load_detections(path, 1) == {8: [((1, 2, 3, 4), 0.5)] * 2}
    assert len(load_detections(path)[8]) == 3


def test_detections_of_other_photographs_or_of_no_number_are_refused(folder: Path) -> None:
    annotations = load_annotations(folder / "people.json")
    path = folder / "boxes.json"
    path.write_text(json.dumps([{"image_id": 99, "bbox": [1, 2, 3, 4], "score": 0.5}]))
    with pytest.raises(AnnotationError, match=r"boxes\.json has no box in any photograph"):
        predict_all(annotations, folder, lambda *_: [], path)
    path.write_text('[{"image_id": 7, "bbox": [1, NaN, 3, 4], "score": 0.5}]')
    with pytest.raises(AnnotationError, match=r"0\.bbox\.1: .*finite"):
        load_detections(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keypoints": [0.0] * 6}, "image 7: needs 51 keypoint numbers, has 6"),
        ({"keypoints": [float("inf")] * 51}, r"0\.keypoints\.0: .*finite"),
        ({"category_id": 3}, "image 7: is of category 3, not 1"),
        ({"score": None}, r"0\.score: .*number"),
    ],
)
def test_a_result_that_does_not_fit_is_named(
    folder: Path, change: dict[str, Any], message: str
) -> None:
    annotations = load_annotations(folder / "people.json")
    result = {"image_id": 7, "category_id": 1, "keypoints": [0.0] * 51, "score": 0.5}
    assert score(annotations, [result]).ap == 0
    with pytest.raises(AnnotationError, match=message):
        score(annotations, [result | change])


def test_results_that_cannot_be_scored_are_refused(folder: Path) -> None:
    annotations = load_annotations(folder / "people.json")
    result = {"image_id": 99, "category_id": 1, "keypoints": [0.0] * 51, "score": 0.5}
    with pytest.raises(AnnotationError, match=r"does not have: \[99\]"):
        score(annotations, [result])
    with pytest.raises(AnnotationError, match=r"0\.score: Input should be a finite number"):
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


def test_a_network_whose_name_looks_like_a_path_writes_where_it_is_told() -> None:
    assert results_name("hrnet_w32", "data/boxes.json") == "hrnet_w32.boxes.json"
    assert results_name("../../etc/x", "gt") == ".._.._etc_x.gt.json"


def test_photographs_may_have_names_for_ids(folder: Path) -> None:
    def rename(content: Any) -> None:
        for entry in content["images"]:
            entry["id"] = f"photo {entry['id']}"
        for entry in content["annotations"]:
            entry |= {"id": f"person {entry['id']}", "image_id": f"photo {entry['image_id']}"}

    annotations = load_annotations(changed(folder, rename))
    for boxes in ("gt", "detector"):
        results = predict_all(
            annotations, folder, lambda i, _: truth_of(annotations, f"photo {i[0, 0, 0]}"), boxes
        )
        assert score(annotations, results).ap == pytest.approx(1)


def test_photographs_may_be_called_by_numbers_and_by_names(folder: Path) -> None:
    def rename(content: Any) -> None:
        content["images"][1]["id"] = content["annotations"][2]["image_id"] = "eight"

    annotations = load_annotations(changed(folder, rename))
    assert score(annotations, noisy(annotations, 0.0)).ap == pytest.approx(1)
    strange = [result | {"image_id": name} for result in noisy(annotations, 0) for name in (1, "x")]
    with pytest.raises(AnnotationError, match=r"does not have: \[1, 'x'\]"):
        score(annotations, strange)


@pytest.mark.parametrize("of_people", [True, False])
def test_more_than_twenty_things_of_a_photograph_are_counted_but_for_people(
    folder: Path, of_people: bool
) -> None:
    def many(content: Any) -> None:
        content["annotations"] = [person(i, 7, 10 + i) for i in range(1, 41)]
        if not of_people:
            names = [f"point {i}" for i in range(17)]
            content["categories"] = [{"id": 1, "keypoints": names}]

    annotations = load_annotations(changed(folder, many))
    for answers in (noisy(annotations, 0.0), without_ids(noisy(annotations, 0.0))):
        assert score(annotations, answers).ar == pytest.approx(0.5 if of_people else 1)


@pytest.mark.parametrize("given", [{}, {"skeleton": None, "name": None}])
def test_a_category_needs_neither_bones_nor_a_name(folder: Path, given: dict[str, None]) -> None:
    names = [f"point {i}" for i in range(17)]
    category = {"id": 1, "keypoints": names, **given}
    annotations = load_annotations(changed(folder, lambda c: c.update(categories=[category])))
    assert annotations.skeleton == Skeleton.from_coco_category(category)
    assert annotations.skeleton.keypoints == tuple(names)
    assert annotations.skeleton.edges == ()


def test_labels_are_counted_whatever_is_claimed(folder: Path) -> None:
    def claim(content: Any) -> None:
        content["annotations"][0] |= {"num_keypoints": 5, "keypoints": [0.0] * 51}
        content["annotations"][1]["num_keypoints"] = 0

    annotations = load_annotations(changed(folder, claim))
    assert [a["num_keypoints"] for a in annotations.annotations] == [0, 17, 17]


def test_a_photograph_of_another_size_than_is_annotated_is_refused(folder: Path) -> None:
    annotations = load_annotations(changed(folder, lambda c: c["images"][1].update(width=100)))
    with pytest.raises(AnnotationError, match=r"8\.png is 200 x 120 pixels, annotated as 100 x"):
        predict_all(annotations, folder, lambda *_: [], "detector")


@pytest.mark.parametrize("box", [[300, 10, 40, 100], [10, 10, 0, 0], [60, 10, 0.5, 100]])
@pytest.mark.parametrize("known", [True, False])
def test_an_annotated_box_without_area_is_named(
    folder: Path, box: list[float], known: bool
) -> None:
    def change(content: Any) -> None:
        content["annotations"][2]["bbox"] = box
        if not known:
            for entry in content["images"]:
                del entry["width"], entry["height"]

    annotations = load_annotations(changed(folder, change))
    asked: list[int] = []

    def predict(image: Any, boxes: Any) -> list[Person]:
        asked.append(len(boxes))
        return truth_of(annotations, int(image[0, 0, 0]))

    with pytest.raises(AnnotationError, match=r"changed\.json, annotation 3: .* lies in 8\.png"):
        predict_all(annotations, folder, predict, "gt")
    assert asked == ([] if known else [2])  # where it can be known, before anything is predicted


def test_detected_boxes_of_nobody_are_left_out(folder: Path) -> None:
    annotations = load_annotations(folder / "people.json")
    boxes = [[10, 10, 40, 100], [300, 10, 40, 100], [120, 10, 0.2, 0.2]]
    found = [{"image_id": 7, "bbox": box, "score": 0.5} for box in boxes]
    (folder / "found.json").write_text(json.dumps(found))
    given: list[Any] = []

    def predict(_: Any, boxes: Any) -> list[Person]:
        given.extend(boxes)
        return truth_of(annotations, 7)[: len(boxes)]

    predict_all(annotations, folder, predict, folder / "found.json")
    assert given == [(10, 10, 40, 100)]


def test_no_answers_are_worth_nothing_where_somebody_is(folder: Path) -> None:
    """All are 2100 square pixels, of medium size: large people cannot be measured."""
    scores = score(load_annotations(folder / "people.json"), [])
    assert (scores.ap, scores.ap_medium, scores.ap_large) == (0, 0, -1)
    assert (scores.ar, scores.ar_medium, scores.ar_large) == (0, 0, -1)
