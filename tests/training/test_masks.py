"""COCO's outlines as masks: each pixel its class, and what is no outline refused by its entry."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco
from typer.testing import CliRunner

from commands.data import app
from heads.image import read_mask
from models.errors import HrposeError
from training.losses import IGNORED
from training.masks import write_masks

Content = dict[str, Any]
SIZE = (40, 60)


def rectangle(left: float, top: float, right: float, bottom: float) -> list[float]:
    return [left, top, right, top, right, bottom, left, bottom]


def runs_of(shape: np.ndarray[Any, Any], *, packed: bool) -> dict[str, Any]:
    """COCO's runs, column after column, beginning with what is not the thing."""
    if packed:
        runs = coco.encode(np.asfortranarray(shape.astype(np.uint8)))
        return {"size": list(SIZE), "counts": runs["counts"].decode()}
    flat = np.concatenate([[0], shape.ravel(order="F"), [1 - shape[-1, -1]]]).astype(int)
    changes = np.flatnonzero(np.diff(flat))
    ends = np.append(changes, shape.size) if changes[-1] != shape.size else changes
    return {"size": list(SIZE), "counts": np.diff(ends, prepend=0).tolist()}


@pytest.fixture
def outlined(tmp_path: Path) -> Callable[..., Path]:
    def write(*annotations: Content, images: int = 1) -> Path:
        content = {
            "images": [
                {"id": i, "file_name": f"part/{i}.jpg", "height": SIZE[0], "width": SIZE[1]}
                for i in range(1, images + 1)
            ],
            "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "sofa"}],
            "annotations": [
                {"id": 10 + i, "image_id": 1, "category_id": 7, **entry}
                for i, entry in enumerate(annotations)
            ],
        }
        path = tmp_path / "instances.json"
        path.write_text(json.dumps(content))
        return path

    return write


def test_every_pixel_is_its_class(outlined: Callable[..., Path], tmp_path: Path) -> None:
    """Polygons, two to a thing, and both kinds of runs; the smaller lies on top."""
    square = np.zeros(SIZE, np.bool_)
    square[30:36, 40:50] = True
    crowd = np.zeros(SIZE, np.bool_)
    crowd[0:5, 50:] = True
    file = outlined(
        {"segmentation": [rectangle(5, 5, 10, 10), rectangle(20, 5, 25, 15)]},
        {"segmentation": [rectangle(0, 0, 40, 20)], "category_id": 3},
        {"segmentation": runs_of(square, packed=True)},
        {"segmentation": runs_of(crowd, packed=False), "iscrowd": 1},
        images=2,
    )
    classes, count = write_masks(file, tmp_path / "masks")
    assert (classes, count) == (("background", "sofa", "cat"), 2)
    expected = np.zeros(SIZE, np.uint8)
    expected[0:20, 0:40] = 1
    expected[5:10, 5:10] = expected[5:15, 20:25] = 2
    expected[30:36, 40:50] = 2
    expected[0:5, 50:] = IGNORED
    np.testing.assert_array_equal(read_mask(tmp_path / "masks" / "1.png"), expected)
    assert not read_mask(tmp_path / "masks" / "2.png").any()


@pytest.mark.parametrize("packed", [True, False])
def test_runs_of_any_shape_come_back(
    outlined: Callable[..., Path], tmp_path: Path, packed: bool
) -> None:
    rng = np.random.default_rng(0)
    for share in (0.02, 0.5, 0.98, 1.0):
        shape = rng.random(SIZE) < share
        write_masks(outlined({"segmentation": runs_of(shape, packed=packed)}), tmp_path, force=True)
        np.testing.assert_array_equal(read_mask(tmp_path / "1.png"), 2 * shape)


def test_the_command_tells_chosen_classes_apart(
    outlined: Callable[..., Path], tmp_path: Path
) -> None:
    sofa = {"segmentation": [rectangle(0, 0, 40, 20)], "category_id": 3}
    file = outlined({"segmentation": [rectangle(5, 5, 10, 10)]}, sofa)
    given = ["masks", str(file), "--out", str(tmp_path / "m"), "--classes", "cat"]
    done = CliRunner().invoke(app, given)
    assert done.exit_code == 0, done.output
    assert 'data.classes = ["background", "cat"]' in done.output
    mask = read_mask(tmp_path / "m" / "1.png")
    assert (mask[5:10, 5:10] == 1).all()
    assert mask.sum() == 25
    with pytest.raises(HrposeError, match=r"1\.png is there already; --force replaces it"):
        write_masks(file, tmp_path / "m")
    assert CliRunner().invoke(app, [*given, "--force"]).exit_code == 0


@pytest.mark.parametrize(
    ("segmentation", "words"),
    [
        ("x", "annotation 10: segmentation"),
        (
            {"size": [9, 9], "counts": [81]},
            r"annotation 10 is \(9, 9\) large, its image \(40, 60\)",
        ),
        ({"size": list(SIZE), "counts": [5, 5]}, "annotation 10: its runs are not as long"),
        ({"size": list(SIZE), "counts": [-5, 2405]}, "annotation 10: its runs are not as long"),
        ({"size": list(SIZE), "counts": "zzzz"}, "annotation 10: its runs are not as long"),
        ([[1, 2, 3, 4, 5, float("nan")]], "annotation 10: segmentation"),
        ([[1e9, 1, 9, 1, 9, 1e9]], "annotation 10 has corners more than 600 pixels away"),
        ([[1, 1, 9, 1, 9, -1e300]], "annotation 10 has corners more than 600 pixels away"),
    ],
)
def test_what_is_no_outline_is_named(
    outlined: Callable[..., Path], tmp_path: Path, segmentation: Any, words: str
) -> None:
    with pytest.raises(HrposeError, match=words):
        write_masks(outlined({"segmentation": segmentation}), tmp_path / "masks")


def test_categories_and_names_that_cannot_be_meant(
    outlined: Callable[..., Path], tmp_path: Path
) -> None:
    file = outlined({"segmentation": []})
    with pytest.raises(HrposeError, match="no category 'dog'; it has sofa, cat"):
        write_masks(file, tmp_path / "m", ["dog"])
    content = json.loads(file.read_text())
    content["images"].append({**content["images"][0], "id": 2, "file_name": "other/1.png"})
    file.write_text(json.dumps(content))
    with pytest.raises(HrposeError, match=r"part/1\.jpg and other/1\.png would have the same mask"):
        write_masks(file, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def edited(file: Path, place: str, **fields: Any) -> Path:
    content = json.loads(file.read_text())
    content[place][0].update(fields)
    file.write_text(json.dumps(content))
    return file


@pytest.mark.parametrize(
    ("place", "fields", "words"),
    [
        ("annotations", {"image_id": 9}, "annotation 10 is of image 9, which is not listed"),
        ("annotations", {"image_id": "1"}, "annotation 10 is of image 1, which is not listed"),
        ("annotations", {"category_id": 9}, "annotation 10 is of category 9, which is not listed"),
        ("annotations", {"category_id": [7]}, "annotation 10: category_id"),
        ("categories", {"name": "sofa"}, "two categories of one id or name"),
        ("images", {"height": 10**30}, "height"),
        ("images", {"file_name": "a\0.jpg"}, "no file can be called"),
        ("images", {"file_name": "a" * 300}, "no file can be called"),
        ("images", {"file_name": "\ud800"}, "file_name"),
    ],
)
def test_what_would_be_lost_or_cannot_be_written_is_named(
    outlined: Callable[..., Path], tmp_path: Path, place: str, fields: Content, words: str
) -> None:
    file = edited(outlined({"segmentation": [rectangle(1, 1, 9, 9)]}), place, **fields)
    with pytest.raises(HrposeError, match=words):
        write_masks(file, tmp_path / "masks")
    assert not (tmp_path / "masks").exists()


def test_a_category_may_be_named_by_text(outlined: Callable[..., Path], tmp_path: Path) -> None:
    """As in keypoint files."""
    file = outlined({"segmentation": [rectangle(1, 1, 9, 9)], "category_id": "7"})
    write_masks(file, tmp_path / "masks")
    assert (read_mask(tmp_path / "masks" / "1.png") == 2).sum() == 64
