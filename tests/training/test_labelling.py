"""Labels by a network: what is seen and left out; the doctor and training take them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import hrpose
from heads.image import Image, encode_image
from heads.person import Box, Person
from heads.skeleton import COCO_17, Skeleton
from heads.spec import NetworkSpec, default_spec
from tests.conftest import ROOT
from training.annotations import load_annotations
from training.data import check_images, read_samples
from training.doctor import examine
from training.errors import AnnotationError, DataError
from training.labelling import (
    CROWD,
    NO_AREA,
    OTHER,
    TOO_FEW,
    TOO_UNSURE,
    UNREADABLE,
    Photographs,
    category_of,
    find_photographs,
    label,
    read_boxes,
)

SPEC = default_spec("mobilenet_v2+simple").model_copy(update={"name": "tiny"})
SIZE = (60, 80)
FOUND: Box = (-4.0, 2.0, 40.0, 50.0)


class FakeEstimator:
    """Answers one person a box, or one where no boxes are given, with the scores it was given."""

    def __init__(
        self, scores: float | Sequence[float] = 0.9, point: tuple[float, float] = (10.004, 20.5)
    ) -> None:
        self.spec = SPEC
        self.asked: list[list[Box] | None] = []
        self.keypoints = np.empty((17, 3), np.float32)
        self.keypoints[:, :2], self.keypoints[:, 2] = point, scores

    def predict(
        self, image: Image, boxes: Sequence[Box] | None, *, flip_test: bool = False
    ) -> list[Person]:
        del image, flip_test
        self.asked.append(None if boxes is None else list(boxes))
        return [Person(self.keypoints, 0.5, box) for box in (boxes or [FOUND])]


def scores_of(seen: int, unsure: int, score: float = 0.9) -> list[float]:
    """Keypoints that are seen, then unsure ones, then those that are not."""
    return [score] * seen + [0.25] * unsure + [0.1] * (17 - seen - unsure)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for name in ("b.png", "more/a.PNG"):
        (folder / name).write_bytes(encode_image(np.full((*SIZE, 3), 90, np.uint8), "png"))
    (folder / "notes.txt").write_text("not a photograph")
    return folder


def boxes_file(folder: Path, **changes: Any) -> Path:
    """Two photographs; of the first a person, a crowd, a dog, a sliver, somebody outside."""
    boxes = [[5.25, 6, 30, 40], [0, 0, 80, 60], [1, 1, 9, 9], [4, 4, 0.5, 30], [90, 4, 20, 20]]
    content = {
        "images": [
            {
                "id": 7, "file_name": "b.png", "width": 80, "height": 60, "source": "a camera",
                "license": 3, "coco_id": 25, "other": "stays behind",
            },
            {"id": 9, "file_name": "more/a.PNG"},
        ],
        "annotations": [
            {"id": i, "image_id": 7, "category_id": 2, "bbox": box} for i, box in enumerate(boxes)
        ],
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "person"}],
        "licenses": [{"id": 3, "name": "theirs"}],
    }  # fmt: skip
    content["annotations"][1]["iscrowd"] = 1
    content["annotations"][2]["category_id"] = 1
    path = folder.parent / "boxes.json"
    path.write_text(json.dumps(content | changes))
    return path


def label_one(estimator: FakeEstimator, photos: Path, **options: Any) -> Any:
    """The labels of one photograph, in which one person is found."""
    one = Photographs(find_photographs(photos).entries[:1])
    return label(one, photos, estimator.predict, estimator.spec, **options)


def test_everybody_found_is_labelled_with_all_that_training_reads(photos: Path) -> None:
    labels = label_one(FakeEstimator(), photos)
    assert labels.content == {
        "info": {"description": "keypoints labelled by tiny"},
        "images": [{"id": 1, "file_name": "b.png", "width": 80, "height": 60}],
        "annotations": [
            {
                "id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "num_keypoints": 17,
                "bbox": [0.0, 2.0, 36.0, 50.0], "area": 954.0,  # clipped; 0.53 * 36 * 50
                "keypoints": [10.0, 20.5, 2] * 17, "scores": [0.9] * 17,
                "source": "tiny", "labeller": "tiny",
            }
        ],
        "categories": [category_of(COCO_17)],
    }  # fmt: skip
    assert (labels.left_out, labels.unreadable) == ({}, [])


def test_photographs_are_those_of_the_folder_and_the_folders_in_it(photos: Path) -> None:
    assert [p.file_name for p in find_photographs(photos).entries] == ["b.png", "more/a.PNG"]
    with pytest.raises(DataError, match="nothing has no photographs"):
        find_photographs(photos / "nothing")


def test_visibility_is_decided_by_score(photos: Path) -> None:
    scores = [0.3, 0.2996, 0.2, 0.1994, 0.0, 1.2, *[0.9] * 11]
    (entry,) = label_one(FakeEstimator(scores), photos).content["annotations"]
    assert entry["keypoints"][2::3] == [2, 2, 1, 0, 0, *[2] * 12]  # 0.2996 is written as 0.3
    assert entry["keypoints"][9:15] == [0, 0, 0, 0, 0, 0]
    assert entry["scores"][:6] == [0.3, 0.3, 0.2, 0.199, 0, 1]
    assert entry["num_keypoints"] == 15


@pytest.mark.parametrize(
    ("point", "x", "visibility"),
    [((79.6, 20), 79, 2), ((80.4, 20), 0, 0), ((-0.9, 20), 0, 2), ((10, 60.2), 0, 0)],
)
def test_no_keypoint_lies_outside_the_image(
    photos: Path, point: tuple[float, float], x: float, visibility: int
) -> None:
    estimator = FakeEstimator()
    estimator.keypoints[3, :2] = point
    (entry,) = label_one(estimator, photos).content["annotations"]
    assert entry["keypoints"][9] == x
    assert entry["keypoints"][11] == visibility
    assert entry["num_keypoints"] == 16 + visibility // 2


@pytest.mark.parametrize(
    ("scores", "least", "reason"),
    [
        (scores_of(6, 0), 0.3, None),
        (scores_of(5, 12), 0.3, TOO_FEW),
        (scores_of(6, 11, 0.3), 0.26, None),
        (scores_of(6, 11, 0.3), 0.3, TOO_UNSURE),
        (scores_of(6, 0, 0.7), 0.8, TOO_UNSURE),
    ],
)
def test_who_is_hardly_seen_is_left_out_and_counted(
    photos: Path, scores: list[float], least: float, reason: str | None
) -> None:
    labels = label_one(FakeEstimator(scores), photos, least=least)
    assert labels.left_out == ({reason: 1} if reason else {})
    assert len(labels.content["annotations"]) == (reason is None)
    assert len(labels.content["images"]) == 1


def test_given_boxes_are_kept_and_what_is_no_person_left_out(photos: Path) -> None:
    estimator = FakeEstimator()
    labels = label(read_boxes(boxes_file(photos), SPEC), photos, estimator.predict, SPEC)
    assert estimator.asked == [[(5.25, 6, 30, 40)]]  # nobody stands in the second photograph
    (entry,) = labels.content["annotations"]
    assert (entry["image_id"], entry["bbox"]) == (7, [5.25, 6, 30, 40])
    assert labels.left_out == {CROWD: 1, OTHER: 1, NO_AREA: 2}
    fields = {"source": "a camera", "license": 3, "coco_id": 25}
    assert labels.content["images"] == [
        {"id": 7, "file_name": "b.png", "width": 80, "height": 60, **fields},
        {"id": 9, "file_name": "more/a.PNG", "width": 80, "height": 60},
    ]
    assert labels.content["licenses"] == [{"id": 3, "name": "theirs"}]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": [{"id": 1}]}, "boxes.json is no COCO file of boxes: images.0.file_name"),
        ({"images": [{"id": 1, "file_name": "a"}] * 2}, "more than one image with id 1"),
        ({"categories": [{"id": 2, "name": "dog"}]}, "has no category person; it has dog"),
        ({"annotations": [{"image_id": 1, "bbox": [1, 2, 3]}]}, "annotations.0.bbox"),
        ({"annotations": [{"image_id": 1, "bbox": [1, 2, 3, float("nan")]}]}, "0.bbox.3"),
        (
            {"annotations": [{"image_id": 1, "bbox": [1, 2, 3, 4], "category_id": 2}]},
            "annotations.0 is of image 1, which it does not have",
        ),
    ],
)
def test_a_boxes_file_that_cannot_be_used_is_refused(
    photos: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(AnnotationError, match=message):
        read_boxes(boxes_file(photos, **changes), SPEC)


def test_photographs_that_cannot_be_read_are_named_and_left_out(photos: Path) -> None:
    (photos / "a.jpg").write_bytes(b"no image")
    labels = label(find_photographs(photos), photos, FakeEstimator().predict, SPEC)
    assert labels.unreadable == ["a.jpg: not an image: JPEG, PNG, WebP and BMP are read"]
    assert labels.left_out == {UNREADABLE: 1}
    assert [image["id"] for image in labels.content["images"]] == [2, 3]


def test_boxes_of_a_photograph_of_another_size_are_not_trusted(photos: Path) -> None:
    images = [{"id": 7, "file_name": "b.png", "width": 160, "height": 120}]
    labels = label(
        read_boxes(boxes_file(photos, images=images), SPEC), photos, FakeEstimator().predict, SPEC
    )
    assert labels.unreadable == ["b.png is 80 x 60 pixels, its boxes are of 160 x 120"]
    assert labels.content["annotations"] == []


@pytest.mark.parametrize(
    "skeleton",
    [
        COCO_17,
        Skeleton(name="plant", keypoints=("pot", "left_leaf", "right_leaf"), edges=((0, 1),),
                 flip_pairs=((1, 2),)),
        Skeleton(name="chair", keypoints=("a", "b"), flip_pairs=((0, 1),), sigmas=(0.1, 0.2)),
    ],
    ids=lambda skeleton: str(skeleton.name),
)  # fmt: skip
def test_the_skeleton_is_read_back_from_the_category(skeleton: Skeleton) -> None:
    assert Skeleton.from_coco_category(category_of(skeleton)) == skeleton


def test_of_fewer_keypoints_fewer_have_to_be_seen(photos: Path) -> None:
    plant = Skeleton(name="plant", keypoints=("pot", "stem", "leaf"))
    spec: NetworkSpec = SPEC.model_copy(update={"skeleton": plant})

    def predict(_image: Image, _boxes: Any) -> list[Person]:
        seen = np.array([[5, 5, 0.9], [9, 9, 0.9], [0, 0, 0.1]], np.float32)
        unsure = seen * np.array([1, 1, 0.3], np.float32)
        return [Person(seen, 0.5, FOUND), Person(unsure, 0.5, FOUND)]

    labels = label(Photographs(find_photographs(photos).entries[:1]), photos, predict, spec)
    assert labels.left_out == {TOO_FEW: 1}
    assert [a["num_keypoints"] for a in labels.content["annotations"]] == [2]


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(hrpose.app, ["data", "label", *map(str, arguments)])


def test_the_command_labels_what_the_doctor_and_training_accept(tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "new" / "labels.json"
    photos.mkdir()
    for name in ("street", "skateboard"):
        (photos / f"{name}.jpg").write_bytes((ROOT / "docs" / f"{name}.jpg").read_bytes())
    (photos / "torn.jpg").write_bytes(b"\xff\xd8\xff")
    done = run(photos, "--out", out)
    assert done.exit_code == 0, done.output
    assert "2 images, 5 people labelled by mobilenet_v2_heatmap" in done.output
    assert "left out, photographs that cannot be read: 1" in done.output
    assert "torn.jpg" in done.output
    report = examine(out, photos).report
    assert report.findings == ()
    assert report.people == 5
    samples, skeleton = read_samples(out, photos)
    check_images(samples)
    assert skeleton == COCO_17
    assert {sample.source for sample in samples} == {"mobilenet_v2_heatmap"}
    assert all(0.3 < sample.weights.max() <= 1 for sample in samples)
    assert len(load_annotations(out).annotations) == 5

    before = out.read_bytes()
    assert "--force replaces it" in " ".join(run(photos, "--out", out).output.split())
    forced = run(photos, "--out", out, "--force", "--no-flip-test", "--boxes", out)
    assert forced.exit_code == 0, forced.output
    assert out.read_bytes() != before
    assert list(out.parent.iterdir()) == [out]


def test_where_nobody_is_seen_nothing_is_written(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("commands.data.load", lambda _name: FakeEstimator(0.1))
    out = photos.parent / "out" / "labels.json"
    done = run(photos, "--out", out)
    assert done.exit_code == 1
    assert "nothing written: 2 images, 0 people labelled by tiny" in done.output
    assert "left out, people with too few keypoints seen: 2" in done.output
    assert not out.parent.exists()


def test_a_run_that_is_stopped_leaves_the_file_before(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopped(FakeEstimator):
        def predict(self, *_: Any, **__: Any) -> list[Person]:
            raise KeyboardInterrupt

    monkeypatch.setattr("commands.data.load", lambda _name: Stopped())
    out = photos.parent / "out" / "labels.json"
    out.parent.mkdir()
    out.write_text("before")
    assert run(photos, "--out", out, "--force").exit_code not in (0, 2)
    assert out.read_text() == "before"
    assert list(out.parent.iterdir()) == [out]
