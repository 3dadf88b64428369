"""The doctor: each kind of damage is found by name, and what is whole is left alone."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow
from typer.testing import CliRunner

from commands.data import app
from heads.image import read_image
from heads.skeleton import COCO_17
from tests.training.damage import Change, Content, changed, entry, image, keypoint
from training import checks
from training.contact_sheet import TILE
from training.doctor import problems
from training.errors import DataError
from training.synthetic import write_dataset


@pytest.fixture
def people(tmp_path: Path) -> Path:
    return write_dataset(tmp_path, 5)


def test_a_whole_data_set_has_no_findings(people: Path) -> None:
    report = problems(people, people.parent)
    assert report.findings == ()
    assert (report.images, report.people, report.crowds, report.unlabelled) == (5, 5, 0, 0)
    assert {(k.labelled, k.visible, k.hidden) for k in report.keypoints} == {(5, 5, 0)}


# What is broken, how it is found, whether training must not start, and words of the reason.
# Images are 72 x 96 pixels, boxes 57.6 x 86.4 from (7.2, 4.8).
BROKEN: list[tuple[Change, str, str, str]] = [
    (keypoint(0, 300, 20, 2), "keypoint-outside", "error", r"nose at \(300, 20\) lies outside"),
    (keypoint(0, 30, -1.5, 2), "keypoint-outside", "warning", r"nose at \(30, -1.5\)"),
    (entry(keypoints=[1, 2, 3]), "keypoints-length", "error", "are 51 numbers; got 3"),
    (entry(keypoints=["x"] * 51), "keypoints-length", "error", "got no list of numbers"),
    (keypoint(0, 30, 20, 3), "visibility", "error", "is 0, 1 or 2; got 3"),
    (keypoint(0, float("nan"), 20, 2), "not-finite", "error", "a keypoint is not finite"),
    (entry(bbox=[1, 2, float("inf"), 3]), "not-finite", "error", "the box is not finite"),
    (entry(scores=[0.5]), "scores", "error", "scores are 17 finite numbers"),
    (image(height="96"), "entry", "error", "'96' is no whole number"),
    (image(width=True), "entry", "error", "True is no whole number"),
    (entry(id=2), "duplicate-id", "error", "the id stands more than once"),
    (image(id=2), "duplicate-id", "error", r"2\.png has the id of 1\.png"),
    (entry(image_id=77), "unknown-image", "error", "is of image 77"),
    (image(file_name="0.png"), "missing-image", "error", "is not in"),
    (image(width=70), "image-size", "error", "is 72 x 96 pixels, annotated as 70 x 96"),
    (image(width=96, height=72), "image-size", "error", "annotated as 96 x 72"),
    (entry(bbox=[7, 5, 0, 40]), "box", "error", "the box is 0 x 40 pixels"),
    (entry(bbox=[7, 5, 9]), "box", "error", r"4 numbers; got \[7, 5, 9\]"),
    (entry(bbox=[100, 5, 57, 86]), "box-outside", "error", "lies outside the image of 72 x 96"),
    (entry(bbox=[-9, 4.8, 78, 86.4]), "box-clipped", "warning", "leaves the image by 9.0 pixels"),
    (entry(bbox=[7, 4, 58, 50]), "box-misses-keypoints", "warning", "pixels outside the box"),
    (image(height=1e999), "entry", "error", r"image \d of the list needs id.*infinity"),
    (keypoint(0, 10**400, 20, 2), "keypoints-length", "error", "got no list of numbers"),
    (entry(num_keypoints=12), "num-keypoints", "warning", "is 12, labelled are 17"),
    (lambda c: c["images"].append("one"), "entry", "error", "image 5 of the list needs id"),
    (lambda c: c["annotations"].append("one"), "entry", "error", "annotation 5 of the list"),
    (lambda c: c["annotations"].clear(), "nobody", "error", "nobody has a labelled keypoint"),
]


@pytest.mark.parametrize(("change", "kind", "level", "reason"), BROKEN)
def test_each_kind_of_damage_is_found(
    people: Path, change: Change, kind: str, level: str, reason: str
) -> None:
    report = problems(changed(people, change), people.parent)
    found = [f for f in report.findings if f.kind == kind]
    assert [f.level for f in found] == [level]
    assert re.search(reason, found[0].reason)


@pytest.mark.parametrize("count", [8, 3])
def test_mirror_pairs_may_be_few_and_name_the_right_side_first(people: Path, count: int) -> None:
    def name_pairs(content: dict[str, Any]) -> None:
        pairs = [[COCO_17.keypoints[k] for k in pair[::-1]] for pair in COCO_17.flip_pairs]
        content["categories"][0]["flip_pairs"] = pairs[:count]

    report = problems(changed(people, name_pairs), people.parent)
    assert report.findings == ()


def test_an_area_of_hundreds_of_digits_is_none(people: Path) -> None:
    assert problems(changed(people, entry(area=10**400)), people.parent).people == 5


def test_a_finding_names_file_and_annotation(people: Path) -> None:
    changed(people, lambda content: content["annotations"][2].update(bbox=[0, 0, 0, 0]))
    report = problems(people, people.parent)
    assert [(f.file, f.annotation) for f in report.errors] == [("3.png", 3)]
    assert report.bad_annotations == {3}
    assert report.bad_images == set()


def test_damaged_images_are_found_unless_only_their_names_are_asked_for(people: Path) -> None:
    (people.parent / "4.png").write_bytes(b"not a picture")
    report = problems(people, people.parent)
    assert [(f.kind, f.file, f.image) for f in report.errors] == [("unreadable-image", "4.png", 4)]
    assert report.bad_images == {4}
    assert problems(people, people.parent, pixels=False).errors == ()


def test_the_same_person_labelled_twice_is_found(people: Path) -> None:
    def change(content: Content) -> None:
        content["annotations"].append({**content["annotations"][1], "id": 9})

    report = problems(changed(people, change), people.parent)
    assert [(f.kind, f.annotation, f.reason) for f in report.findings] == [
        ("same-person", 9, "is the same person as annotation 2 (OKS 1.00)")
    ]


def test_crowds_and_people_without_labels_are_counted_not_blamed(people: Path) -> None:
    def change(content: Content) -> None:
        content["annotations"][0] |= {"iscrowd": 1, "keypoints": [], "bbox": [0, 0, 0, 0]}
        content["annotations"][1] |= {"keypoints": [0] * 51, "num_keypoints": 0}
        content["annotations"][2] |= {"keypoints": [], "num_keypoints": 0}
        content["annotations"].pop()

    report = problems(changed(people, change), people.parent)
    assert report.findings == ()
    assert (report.crowds, report.unlabelled, report.people, report.images_without) == (1, 2, 1, 2)


def test_only_the_first_category_with_keypoints_is_read(people: Path) -> None:
    def change(content: Content) -> None:
        content["categories"].append({"id": 2, "name": "dog", "keypoints": ["nose"]})
        content["annotations"][0] |= {"category_id": 2, "keypoints": [1, 2, 2]}

    report = problems(changed(people, change), people.parent)
    assert [f.reason for f in report.findings] == [
        "only person is read, not dog (1 annotations); to learn all of them with the same "
        "keypoints, give them one category"
    ]
    assert report.people == 4


def test_files_of_windows_editors_begin_with_a_mark(people: Path) -> None:
    people.write_text(people.read_text(), encoding="utf-8-sig")
    assert problems(people).findings == ()


def test_labels_of_a_category_that_is_not_listed_are_not_lost_in_silence(people: Path) -> None:
    report = problems(changed(people, entry(category_id=9)), people.parent)
    (finding,) = report.findings
    assert (finding.level, finding.kind) == ("warning", "unknown-category")
    assert finding.reason == "annotations are of categories that the file does not list (9): 1"
    assert report.people == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no JSON"),
        ("[]", "has no list 'images'"),
        ('{"images": [], "annotations": []}', "has no list 'categories'"),
        ('{"images": [], "annotations": [], "categories": [{}]}', "no category with keypoints"),
        (
            '{"images": [], "annotations": [], "categories": [{"keypoints": ["a", "a"]}]}',
            "different names",
        ),
    ],
)
def test_what_cannot_be_looked_through_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "people.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        problems(path, tmp_path)


def test_the_command_prints_findings_and_ends_with_1_on_errors(people: Path) -> None:
    run = CliRunner()
    folder = people.parent
    files = {"--json": folder / "report.json", "--sheet": folder / "sheet.png"}
    options = [str(part) for pair in files.items() for part in pair]
    whole = run.invoke(app, ["check", str(people), "--images", str(folder), *options])
    assert whole.exit_code == 0, whole.output
    assert "0 errors, 0 warnings" in whole.output
    assert json.loads(files["--json"].read_text())["people"] == 5
    assert read_image(files["--sheet"]).shape[1] == 5 * TILE
    changed(people, entry(bbox=[0, 0, 0, 0]))
    broken = run.invoke(app, ["check", str(people), "--images", str(folder), *options])
    assert broken.exit_code == 1
    assert "error: 1.png, annotation 1: the box is 0 x 0 pixels [box]" in broken.output
    assert json.loads(files["--json"].read_text())["counts"] == {"box": 1}


def test_images_are_read_one_at_a_time(people: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[int] = []

    class Counted(np.ndarray):
        def __del__(self) -> None:
            alive.append(-1)

    def read(path: Path) -> Any:
        assert sum(alive) == 0
        alive.append(1)
        return read_image(path).view(Counted)

    monkeypatch.setattr(checks, "read_image", read)
    assert problems(people, people.parent).findings == ()
    assert alive.count(1) == 5


def test_the_projects_own_data_has_no_errors(shared: Path) -> None:
    folder = shared / "data" / "val"
    if not folder.is_dir():
        pytest.skip("the data (../shared/data) is not here")
    report = problems(folder / "val.json", folder / "images")
    assert report.errors == ()
    assert not [f for f in report.warnings if f.kind == "sides-swapped"]
    assert (report.images, report.people, report.crowds) == (51, 160, 5)


def test_an_image_that_exif_turns_is_measured_upright(people: Path) -> None:
    stored = Pillow.new("RGB", (96, 72))
    exif = stored.getexif()
    exif[0x0112] = 6  # shown turned by a quarter: 72 wide, 96 tall
    stored.save(people.parent / "turned.jpg", exif=exif)
    upright = problems(changed(people, image(file_name="turned.jpg")), people.parent)
    assert upright.errors == ()
    sideways = problems(changed(people, image(width=96, height=72)), people.parent)
    assert sideways.errors[0].kind == "image-size"
    assert "before EXIF turned it" in sideways.errors[0].reason


def test_a_crowd_needs_a_box(people: Path) -> None:
    """What counts as nobody's fault is known by it, in training and in evaluation."""

    def add(content: Content) -> None:
        crowd = {**content["annotations"][0], "id": 99, "iscrowd": 1}
        del crowd["bbox"]
        content["annotations"].append(crowd)

    changed(people, add)
    (finding,) = problems(people, people.parent).errors
    assert (finding.kind, finding.annotation) == ("box", 99)
