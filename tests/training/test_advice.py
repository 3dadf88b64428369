"""Mirror pairs and sigmas are found, and said in the fields that training reads."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from commands.data import app
from heads.skeleton import COCO_17, DEFAULT_SIGMA, Skeleton
from models.errors import HrposeError
from tests.training.damage import Content, changed
from training.advice import flip_pairs
from training.annotations import load_annotations
from training.data import read_samples
from training.doctor import problems
from training.people import read_photos
from training.synthetic import write_dataset
from training.synthetic_objects import write_plants


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


def test_what_is_found_is_used_once_it_stands_in_the_file(tmp_path: Path) -> None:
    def rename(content: Content) -> None:
        content["categories"][0]["keypoints"] = ["nose", "stem", "flower", "LEye", "REye"]

    plants = changed(write_plants(tmp_path, 3), rename)
    fields = problems(plants, tmp_path / "images").category
    assert fields == {
        "sigmas": [0.026, DEFAULT_SIGMA, DEFAULT_SIGMA, 0.025, 0.025],
        "flip_pairs": [["LEye", "REye"]],
    }
    changed(plants, lambda content: content["categories"][0].update(fields))
    report = problems(plants, tmp_path / "images")
    assert report.category == {}
    assert report.flip_pairs_from == "the file's category"
    assert {k.sigma_from for k in report.keypoints} == {"the file's category"}
    for skeleton in (
        read_samples(plants, tmp_path / "images")[1],
        read_photos(plants, tmp_path / "images")[1],
        load_annotations(plants).skeleton,
    ):
        assert list(skeleton.sigmas) == fields["sigmas"]
        assert skeleton.flip_pairs == ((3, 4),)


def test_a_person_needs_nothing_written_and_the_command_says_what_does(tmp_path: Path) -> None:
    people = write_dataset(tmp_path, 3)
    assert problems(people, tmp_path).category == {}
    run = CliRunner()
    command = ["check", str(people), "--images", str(tmp_path)]
    assert "write into" not in run.invoke(app, command).output
    changed(people, lambda content: content["categories"][0].update(flip_pairs=[]))
    assert problems(people, tmp_path).category == {}  # the file says that there are none
    rename = {"keypoints": [f"{'LR'[k % 2]}_{k // 2}" for k in range(16)] + ["tail"]}
    changed(people, lambda content: content["categories"][0].update(rename, flip_pairs=None))
    output = run.invoke(app, command).output
    assert 'write into the category: "flip_pairs": [["L_0", "R_0"], ["L_1", "R_1"]' in output


@pytest.mark.parametrize("read", [problems, read_samples, read_photos, load_annotations])
def test_a_bad_field_is_refused_with_the_files_name(
    tmp_path: Path, read: Callable[..., object]
) -> None:
    people = write_dataset(tmp_path, 1)
    changed(people, lambda content: content["categories"][0].update(sigmas=[0.1]))
    arguments = [people] if read is load_annotations else [people, tmp_path]
    with pytest.raises(HrposeError, match=r"people\.json: category 'person' .*17 sigmas"):
        read(*arguments)
