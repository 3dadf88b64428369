"""The doctor: each kind of damage is found by name, and what is whole is left alone."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow
from typer.testing import CliRunner

from commands.data import app
from heads.image import read_image
from heads.skeleton import COCO_17, DEFAULT_SIGMA, Skeleton
from training.doctor import TILE, examine, flip_pairs, problems, sheet, swapped_sides
from training.errors import DataError
from training.synthetic import write_dataset
from training.synthetic_objects import write_plants

Content = dict[str, Any]
Change = Callable[[Content], None]


@pytest.fixture
def people(tmp_path: Path) -> Path:
    return write_dataset(tmp_path, 5)


def changed(path: Path, change: Change) -> Path:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


def entry(**fields: Any) -> Change:
    """Changes fields of the first annotation."""
    return lambda content: content["annotations"][0].update(fields)


def image(**fields: Any) -> Change:
    return lambda content: content["images"][0].update(fields)


def keypoint(index: int, *values: float) -> Change:
    def change(content: Content) -> None:
        content["annotations"][0]["keypoints"][3 * index : 3 * index + 3] = values

    return change


def swap(content: Content, number: int, pairs: tuple[tuple[int, int], ...]) -> None:
    """Swaps the labels of pairs of one annotation."""
    points = np.array(content["annotations"][number]["keypoints"]).reshape(-1, 3)
    for a, b in pairs:
        points[[a, b]] = points[[b, a]]
    content["annotations"][number]["keypoints"] = points.ravel().tolist()


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
    (entry(num_keypoints=12), "num-keypoints", "warning", "is 12, labelled are 17"),
    (entry(num_keypoints=None), "num-keypoints", "warning", "leaves out the 17 labels"),
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


@pytest.mark.parametrize(
    ("pairs", "reason"),
    [
        (COCO_17.flip_pairs, "all swapped, or face not seen"),
        (COCO_17.flip_pairs[2:], "point against the other pairs"),
        (((5, 6),), "left_shoulder/right_shoulder point against the other pairs"),
        (((11, 12),), "left_hip/right_hip point against the other pairs"),
    ],
)
def test_swapped_sides_of_people_are_found(
    people: Path, pairs: tuple[tuple[int, int], ...], reason: str
) -> None:
    # Drawn faces are smaller than people label exactly, so the eyes are moved apart.
    def change(content: Content) -> None:
        for number in range(5):
            points = np.array(content["annotations"][number]["keypoints"]).reshape(17, 3)
            points[:3, :2] = [[36, 18], [44, 10], [28, 10]]
            content["annotations"][number]["keypoints"] = points.ravel().tolist()
        swap(content, 3, pairs)

    report = problems(changed(people, change), people.parent)
    assert [(f.kind, f.level, f.annotation) for f in report.findings] == [
        ("sides-swapped", "warning", 4)
    ]
    assert reason in report.findings[0].reason


def test_crossed_legs_and_hands_are_no_finding(people: Path) -> None:
    change: Change = lambda content: swap(content, 0, ((9, 10), (13, 14), (15, 16)))  # noqa: E731
    assert problems(changed(people, change), people.parent).findings == ()


def test_the_sides_of_other_bodies_are_learned_from_the_data(tmp_path: Path) -> None:
    plants = write_plants(tmp_path, 80)
    assert problems(plants, tmp_path / "images").findings == ()
    report = problems(
        changed(plants, lambda content: swap(content, 7, ((3, 4),))), tmp_path / "images"
    )
    assert [(f.kind, f.annotation) for f in report.findings] == [("sides-swapped", 8)]


def test_only_the_first_category_with_keypoints_is_read(people: Path) -> None:
    def change(content: Content) -> None:
        content["categories"].append({"id": 2, "name": "dog", "keypoints": ["nose"]})
        content["annotations"][0] |= {"category_id": 2, "keypoints": [1, 2, 2]}

    report = problems(changed(people, change), people.parent)
    assert [f.reason for f in report.findings] == ["only person is read, not dog"]
    assert report.people == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no COCO keypoint file"),
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


@pytest.mark.parametrize(
    ("names", "expected", "how"),
    [
        (("left_ear", "tail", "right_ear"), (("left_ear", "right_ear"),), "names"),
        (("L_Eye", "R_Eye"), (("L_Eye", "R_Eye"),), "names; training finds only left_x"),
        (("eye-l", "eye-r"), (("eye-l", "eye-r"),), "names; training"),
        (("LEye", "REye"), (("LEye", "REye"),), "names; training"),
        (("rightPaw", "leftPaw"), (("leftPaw", "rightPaw"),), "names"),
        (("lid", "rim"), (), "none"),
    ],
)
def test_flip_pairs_are_proposed_by_name(
    names: tuple[str, ...], expected: tuple[tuple[str, str], ...], how: str
) -> None:
    skeleton = Skeleton.from_coco_category({"name": "thing", "keypoints": list(names)})
    pairs, found = flip_pairs(skeleton, [])
    assert pairs == expected
    assert found.startswith(how)


def test_flip_pairs_without_sides_in_their_names_are_found_by_symmetry(tmp_path: Path) -> None:
    def change(content: Content) -> None:
        names = [f"k{k}" for k in range(17)]
        content["categories"][0] |= {"name": "thing", "keypoints": names}

    path = changed(write_dataset(tmp_path, 60), change)
    report = problems(path, tmp_path)
    assert report.flip_pairs_from.startswith("the data is symmetric")
    expected = {(f"k{a}", f"k{b}") for a, b in COCO_17.flip_pairs}
    assert set(report.flip_pairs) == expected


def test_sigmas_are_measured_where_people_are_labelled_twice(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    off_px = 2.0

    def change(content: Content) -> None:
        for entry in content["annotations"][:40]:
            points = np.array(entry["keypoints"]).reshape(17, 3)
            points[:, :2] += rng.normal(0, off_px, (17, 2))
            points[0, 2] = 0
            again = {"id": 100 + entry["id"], "num_keypoints": 16}
            content["annotations"].append({**entry, "keypoints": points.ravel().tolist(), **again})

    people = changed(write_dataset(tmp_path, 60, size=(384, 288)), change)
    nose, *others = problems(people, tmp_path, pixels=False).keypoints
    assert (nose.sigma, nose.sigma_from) == (0.026, "COCO's of this name")
    # Only the second label is off: d**2 is 2 * off_px**2, of which half counts for each of both.
    root_of_area = np.sqrt(0.5 * 0.8 * 288 * 0.9 * 384)
    measured = np.array([k.sigma for k in others])
    # 40 squared distances have a relative deviation of 1 / sqrt(40); 16 means stay within 3.5.
    np.testing.assert_allclose(measured, off_px / root_of_area, rtol=0.5 * 3.5 / np.sqrt(40))
    assert {k.sigma_from for k in others} == {"40 people labelled twice"}


def test_sigmas_of_unknown_names_are_the_default_and_say_so(tmp_path: Path) -> None:
    report = problems(write_plants(tmp_path, 3), tmp_path / "images")
    assert {k.sigma for k in report.keypoints} == {DEFAULT_SIGMA}
    assert all(k.sigma_from.startswith("default") for k in report.keypoints)


def test_a_sheet_shows_the_worst_first_and_people_on_their_pixels(people: Path) -> None:
    (people.parent / "2.png").unlink()
    data = examine(changed(people, entry(num_keypoints=3)), people.parent)
    picture = sheet(data, tiles=3)
    assert picture.shape == (TILE, 3 * TILE, 3)
    missing, lying, whole = np.split(picture, 3, axis=1)
    # No photograph: grey, but for its words.
    assert (missing[TILE // 2] == 96).all()
    assert (lying != 96).any(axis=2).mean() > 0.5
    assert (whole == COCO_17.colours[16]).all(axis=2).any()


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
    import training.doctor as doctor

    alive: list[int] = []

    class Counted(np.ndarray):
        def __del__(self) -> None:
            alive.append(-1)

    def read(path: Path) -> Any:
        assert sum(alive) == 0
        alive.append(1)
        return read_image(path).view(Counted)

    monkeypatch.setattr(doctor, "read_image", read)
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


@pytest.mark.parametrize(
    ("pairs", "needed", "share"),
    [(COCO_17.flip_pairs, (0, 1, 2), 0.95), (COCO_17.flip_pairs[2:], (1, 2, 5, 6), 0.97)],
)
def test_swapped_copies_of_photographed_people_are_found(
    shared: Path, pairs: tuple[tuple[int, int], ...], needed: tuple[int, ...], share: float
) -> None:
    folder = shared / "data" / "val"
    if not folder.is_dir():
        pytest.skip("the data (../shared/data) is not here")
    data = examine(folder / "val.json", folder / "images", pixels=False)
    copies = []
    for person in data.people.values():
        if person.labelled[list(needed)].all():
            points = person.keypoints.copy()
            for a, b in pairs:
                points[[a, b]] = points[[b, a]]
            copies.append(replace(person, keypoints=points))
    assert len(copies) > 50
    assert len(list(swapped_sides(copies, COCO_17))) >= share * len(copies)


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
