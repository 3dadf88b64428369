"""YOLO-pose folders read as COCO files; what is wrong with one is said with file and line."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from commands.data import app
from heads.skeleton import COCO_17, Skeleton
from training.data import check_images, read_samples
from training.doctor import problems
from training.errors import DataError
from training.formats import read_yolo
from training.synthetic import write_dataset
from training.synthetic_objects import write_plants


def write_yolo(coco: Path, images: Path, folder: Path, dimensions: int = 3, **more: Any) -> Path:
    """A COCO file's people as a YOLO-pose folder with the split `train`; returns data.yaml."""
    content = json.loads(coco.read_text())
    names = content["categories"][0]["keypoints"]
    (folder / "images" / "train").mkdir(parents=True)
    (folder / "labels" / "train").mkdir(parents=True)
    for image in content["images"]:
        width, height = image["width"], image["height"]
        name = Path(image["file_name"])
        shutil.copy(images / name, folder / "images" / "train" / name)
        lines = []
        for entry in content["annotations"]:
            if entry["image_id"] != image["id"]:
                continue
            left, top, box_width, box_height = entry["bbox"]
            numbers = [(left + box_width / 2) / width, (top + box_height / 2) / height]
            numbers += [box_width / width, box_height / height]
            for x, y, v in np.array(entry["keypoints"]).reshape(-1, 3):
                numbers += [x / width, y / height, v][:dimensions]
            lines.append(" ".join(["0", *(f"{number:.6f}" for number in numbers)]))
        (folder / "labels" / "train" / f"{name.stem}.txt").write_text("\n".join(lines) + "\n")
    skeleton = Skeleton.from_coco_category(content["categories"][0])
    settings = {
        "path": ".",
        "train": "images/train",
        "kpt_shape": [len(names), dimensions],
        "flip_idx": list(skeleton.flip_order),
        "names": {0: content["categories"][0]["name"]},
    } | more
    path = folder / "data.yaml"
    path.write_text(yaml.safe_dump(settings))  # type: ignore[no-untyped-call]
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three drawn people as a YOLO-pose folder."""
    coco = write_dataset(tmp_path / "coco", 3)
    return write_yolo(coco, coco.parent, tmp_path / "yolo")


def change(data: Path, **fields: Any) -> Path:
    settings = yaml.safe_load(data.read_text()) | fields  # type: ignore[no-untyped-call]
    data.write_text(yaml.safe_dump(settings))  # type: ignore[no-untyped-call]
    return data


@pytest.mark.parametrize("dimensions", [2, 3])
def test_people_come_back_within_half_a_pixel(tmp_path: Path, dimensions: int) -> None:
    coco = write_dataset(tmp_path / "coco", 3)
    data = write_yolo(coco, coco.parent, tmp_path / "yolo", dimensions)
    content, folder = read_yolo(data)
    truth = json.loads(coco.read_text())
    (category,) = content["categories"]
    pairs = category.pop("flip_pairs")  # which the names of COCO's keypoints tell as well
    assert [category] == truth["categories"]
    assert len(pairs) == 8
    assert pairs[0] == ["left_eye", "right_eye"]
    assert folder == data.parent
    for image, before in zip(content["images"], truth["images"], strict=True):
        assert Path(image["file_name"]).name == before["file_name"]
        assert (image["height"], image["width"]) == (before["height"], before["width"])
    for entry, before in zip(content["annotations"], truth["annotations"], strict=True):
        # Six digits of a share of 96 pixels, then three digits of a pixel.
        np.testing.assert_allclose(entry["keypoints"], before["keypoints"], atol=1e-3)
        np.testing.assert_allclose(entry["bbox"], before["bbox"], atol=1e-3)
        assert entry["num_keypoints"] == 17


def test_what_is_converted_is_trained_on_like_the_original(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "coco.json"
    done = CliRunner().invoke(app, ["convert", str(data), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "3 images, 3 annotations" in done.output
    before = out.read_bytes()
    again = CliRunner().invoke(app, ["convert", str(data), "--out", str(out)])
    assert again.exit_code == 2
    assert out.read_bytes() == before
    forced = CliRunner().invoke(app, ["convert", str(data), "--out", str(out), "--force"])
    assert forced.exit_code == 0
    samples, skeleton = read_samples(out, data.parent)
    check_images(samples)
    expected, _ = read_samples(tmp_path / "coco" / "people.json", tmp_path / "coco")
    assert skeleton == COCO_17
    for sample, other in zip(samples, expected, strict=True):
        np.testing.assert_allclose(sample.keypoints, other.keypoints, atol=0.5)
        np.testing.assert_allclose(sample.box_xywh, other.box_xywh, atol=0.5)


def test_the_doctor_reads_a_folder(data: Path) -> None:
    report = problems(data)
    assert report.findings == ()
    assert (report.images, report.people) == (3, 3)


def test_the_doctor_goes_on_after_wrong_lines_and_files(data: Path) -> None:
    labels = data.parent / "labels" / "train"
    good = (labels / "1.txt").read_text()
    (labels / "1.txt").write_text(f"{good}0 0.5\n{good}0 0.6\n")
    (data.parent / "images" / "train" / "3.png").write_bytes(b"no picture")
    report = problems(data)
    reasons = [f.reason for f in report.errors]
    assert [f.kind for f in report.errors] == ["label-file"] * 3
    assert reasons[0].startswith("1.txt, line 2: ")
    assert reasons[1].startswith("1.txt, line 4: ")
    assert reasons[2].startswith("3.png: ")


def test_unlabelled_keypoints_are_zero_as_in_coco(data: Path) -> None:
    path = data.parent / "labels" / "train" / "1.txt"
    numbers = path.read_text().split()
    numbers[5:8] = ["0.3", "0.4", "0"]
    path.write_text(" ".join(numbers))
    entry = read_yolo(data)[0]["annotations"][0]
    assert entry["keypoints"][:3] == [0, 0, 0]
    assert entry["num_keypoints"] == 16


@pytest.mark.parametrize("place", [("0", "0"), ("-1", "-1")])
def test_without_visibility_places_that_cannot_be_are_unlabelled(
    tmp_path: Path, place: tuple[str, str]
) -> None:
    coco = write_dataset(tmp_path / "coco", 1)
    data = write_yolo(coco, coco.parent, tmp_path / "yolo", 2)
    path = data.parent / "labels" / "train" / "1.txt"
    numbers = path.read_text().split()
    numbers[5:7] = place
    path.write_text(" ".join(numbers))
    assert read_yolo(data)[0]["annotations"][0]["keypoints"][:6:3] != [0, 0]
    assert read_yolo(data)[0]["annotations"][0]["keypoints"][:3] == [0, 0, 0]


def test_an_image_without_labels_shows_nobody(data: Path) -> None:
    (data.parent / "labels" / "train" / "2.txt").unlink()
    content, _ = read_yolo(data)
    assert len(content["images"]) == 3
    assert [entry["image_id"] for entry in content["annotations"]] == [1, 3]


def test_names_are_made_from_partners(tmp_path: Path) -> None:
    coco = write_plants(tmp_path / "coco", 2)
    data = write_yolo(coco, tmp_path / "coco" / "images", tmp_path / "yolo")
    keypoints = read_yolo(data)[0]["categories"][0]["keypoints"]
    assert keypoints == ["point_1", "point_2", "point_3", "left_1", "right_1"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["pot", "stem", "top", "left_a", "right_a"], ["pot", "stem", "top", "left_a", "right_a"]),
        ({0: ["pot", "stem", "top", "l", "r"]}, ["pot", "stem", "top", "l", "r"]),
        (["left_pot", "right_pot", "top", "a", "b"], ["left_pot", "right_pot", "top", "a", "b"]),
    ],
)
def test_given_names_are_kept_and_pairs_are_those_of_flip_idx(
    tmp_path: Path, given: Any, expected: list[str]
) -> None:
    coco = write_plants(tmp_path / "coco", 2)
    data = write_yolo(coco, tmp_path / "coco" / "images", tmp_path / "yolo", kpt_names=given)
    category = read_yolo(data)[0]["categories"][0]
    assert category["keypoints"] == expected
    assert Skeleton.from_coco_category(category).flip_pairs == ((3, 4),)


def test_without_flip_idx_pairs_are_found_by_names(tmp_path: Path) -> None:
    coco = write_plants(tmp_path / "coco", 2)
    names = ["left_pot", "right_pot", "top", "a", "b"]
    data = write_yolo(
        coco, tmp_path / "coco" / "images", tmp_path / "yolo", kpt_names=names, flip_idx=None
    )
    category = read_yolo(data)[0]["categories"][0]
    assert "flip_pairs" not in category
    assert Skeleton.from_coco_category(category).flip_pairs == ((0, 1),)


def test_a_folder_written_as_if_it_lay_beside_is_found(data: Path) -> None:
    folder = data.parent / "train"
    folder.mkdir()
    for part in ("images", "labels"):
        (data.parent / part / "train").rename(folder / part)
    content, _ = read_yolo(change(data, train="../train/images"))
    assert content["images"][0]["file_name"] == "train/images/1.png"
    assert len(content["annotations"]) == 3


def test_a_list_of_files_is_a_split_too(data: Path) -> None:
    (data.parent / "some.txt").write_text("./images/train/3.png\n\nimages/train/1.png\n")
    content, _ = read_yolo(change(data, train="some.txt", val=["images/train"]))
    names = [image["file_name"] for image in content["images"]]
    assert names == [f"images/train/{number}.png" for number in (3, 1, 1, 2, 3)]
    assert [image["id"] for image in content["images"]] == [1, 2, 3, 4, 5]


def test_a_file_that_is_not_there_is_named_in_words(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^data\.yaml cannot be read: No such file or directory$"):
        read_yolo(tmp_path / "data.yaml")


def test_places_may_be_absolute(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change(data, train=str(data.parent / "images" / "train"), val=["images/train"])
    wanted = read_yolo(data)[0]["images"]
    monkeypatch.chdir(data.parent.parent)
    assert read_yolo(data.relative_to(data.parent.parent))[0]["images"] == wanted


def test_lists_and_labels_of_windows_editors_are_read_or_refused(data: Path) -> None:
    """They begin files with a mark, or write two bytes a letter."""
    listed, label = data.parent / "some.txt", data.parent / "labels" / "train" / "1.txt"
    listed.write_text("images/train/1.png\n", encoding="utf-8-sig")
    label.write_text(label.read_text(), encoding="utf-8-sig")
    content, _ = read_yolo(change(data, train="some.txt", val=["images/train"]))
    assert content["images"][0]["file_name"] == "images/train/1.png"
    listed.write_text("images/train/1.png\n", encoding="utf-16")
    with pytest.raises(DataError, match=r"some\.txt cannot be read"):
        read_yolo(data)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kpt_shape": None}, r"kpt_shape is \[keypoints, 2 or 3\]; got None"),
        ({"kpt_shape": [17, 4]}, r"kpt_shape is .* got \[17, 4\]"),
        ({"kpt_shape": ["17", 3]}, "kpt_shape"),
        ({"flip_idx": [str(k) for k in range(17)]}, "flip_idx has each of 0 to 16 once"),
        ({"flip_idx": [0, 1]}, "flip_idx has each of 0 to 16 once"),
        ({"flip_idx": [1, 2, 0, *range(3, 17)]}, "flip_idx sends 0 to 1, which does not come back"),
        ({"names": None}, "names is a list of classes"),
        ({"names": {1: "person"}}, "names is a list of classes"),
        ({"path": "elsewhere"}, r"there is no folder elsewhere \(path\)"),
        ({"train": "images/other"}, "train is no folder and no list of files: images/other"),
        ({"train": "../coco"}, r"train lies outside the data's folder: \.\./coco"),
        ({"train": None}, "has none of train, val"),
        ({"kpt_names": ["nose"]}, "kpt_names are 17 different names"),
        ({"names": {0: "person", "b": "other"}}, "names is a list of classes"),
        ({"train": "images/\0"}, "train cannot be looked up"),
        ({"train": "x" * 5000}, "train cannot be looked up"),
    ],
)
def test_a_wrong_key_is_refused(data: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=rf"data\.yaml.*{message}"):
        read_yolo(change(data, **fields))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: [", r"data\.yaml, line 1 is no YAML"),
        ("a: 1\nb: : 2\n", r"data\.yaml, line 2 is no YAML"),
        ("- a\n", "has no keys"),
        ("date: 2020-13-45\n", "cannot be read: month must be in"),
        ("a: !!python/object:os.system 1\n", r"line 1 is no YAML"),
    ],
)
def test_what_is_no_settings_file_is_refused(data: Path, text: str, message: str) -> None:
    data.write_text(text)
    with pytest.raises(DataError, match=message):
        read_yolo(data)


def test_a_missing_settings_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.yaml cannot be read"):
        read_yolo(tmp_path / "data.yaml")


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, "1", "class 1 is none of the 1 in names"),
        (0, "0.5", r"class 0\.5 is none"),
        (1, "x", "not a number: 'x'"),
        (1, "nan", "a number is not finite"),
        (1, "30", "the box is shares of the image, 0 to 1; got 30"),
        (7, "5", "visibility is 0, 1 or 2; got 5"),
        (7, "", "17 keypoints of 3 are 56 numbers; got 55"),
    ],
)
def test_a_wrong_line_is_named(data: Path, place: int, value: str, message: str) -> None:
    path = data.parent / "labels" / "train" / "2.txt"
    good = path.read_text()
    numbers = good.split()
    numbers[place] = value
    path.write_text(f"{good}\n{' '.join(numbers)}\n")
    with pytest.raises(DataError, match=rf"^2\.txt, line 3: .*{message}"):
        read_yolo(data)


def test_wrong_files_are_named(data: Path) -> None:
    folder = data.parent
    (folder / "list.txt").write_text("images/train/1.png\nimages/train/9.png\n")
    with pytest.raises(DataError, match=r"list\.txt, line 2: there is no image images/train/9"):
        read_yolo(change(data, train="list.txt"))
    (folder / "labels" / "train" / "1.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"1\.txt is no text"):
        read_yolo(change(data, train="images/train"))
    (folder / "images" / "train" / "1.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"1\.png: the image is empty"):
        read_yolo(data)


def test_images_need_a_folder_of_that_name(data: Path) -> None:
    (data.parent / "images").rename(data.parent / "photographs")
    with pytest.raises(DataError, match=r"1\.png lies in no folder `images`"):
        read_yolo(change(data, train="photographs/train"))
