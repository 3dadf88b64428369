"""Photographs in two data sets are found by their bytes."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from commands.data import app
from training.doctor import examine
from training.errors import DataError
from training.overlap import with_shared
from training.synthetic import write_dataset


@pytest.fixture
def train(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "train", 4)


def test_a_photograph_under_another_name_is_found(train: Path, tmp_path: Path) -> None:
    val = write_dataset(tmp_path / "val", 3, size=(80, 72))
    data = examine(train)
    assert with_shared(data, val).report == data.report
    shutil.copy(train.parent / "2.png", val.parent / "3.png")
    (finding,) = with_shared(data, val).report.findings
    assert (finding.level, finding.kind) == ("warning", "shared-image")
    assert str(finding) == f"2.png: is 3.png of {val.name}, byte for byte"


def test_files_of_equal_length_are_not_the_same(train: Path, tmp_path: Path) -> None:
    val = write_dataset(tmp_path / "val", 1)
    for folder, last in ((train.parent, b"\0"), (val.parent, b"\1")):
        with (folder / "1.png").open("ab") as file:
            file.write(last)
    assert (train.parent / "1.png").stat().st_size == (val.parent / "1.png").stat().st_size
    assert with_shared(examine(train), val).report.findings == ()


def test_what_is_missing_or_malformed_is_no_match(train: Path, tmp_path: Path) -> None:
    val = tmp_path / "val.json"
    entries = [{"id": 1, "file_name": "gone.png"}, {"id": 2}, 3, {"id": 4, "file_name": "1.png"}]
    val.write_text(json.dumps({"images": entries, "annotations": [], "categories": []}))
    (finding,) = with_shared(examine(train), val, train.parent).report.findings
    assert finding.file == "1.png"
    (train.parent / "2.png").unlink()  # an error of the check already
    with pytest.raises(DataError):
        with_shared(examine(train), tmp_path / "nowhere.json")


def test_the_command_says_so_and_ends_well(train: Path) -> None:
    same = [str(train), "--against", str(train)]
    done = CliRunner().invoke(app, ["check", *same])
    assert done.exit_code == 0
    assert done.stdout.count("[shared-image]") == 4
    alone = CliRunner().invoke(app, ["check", str(train), "--against-images", str(train.parent)])
    assert alone.exit_code == 2
    assert "belongs to" in alone.output
