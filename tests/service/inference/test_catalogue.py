"""What is listed of the networks in a folder, how often its files are read, and what is gone."""

import os
from pathlib import Path

import pytest

from heads.errors import CheckpointError
from heads.onnx_file import add_spec, read_onnx_spec
from heads.spec import NetworkSpec, default_spec
from models.errors import UnknownName
from service.inference import catalogue
from service.inference.catalogue import Catalogue


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the ONNX files that are read."""
    names: list[str] = []

    def note(path: Path) -> NetworkSpec:
        names.append(path.name)
        return read_onnx_spec(path)

    monkeypatch.setattr(catalogue, "read_onnx_spec", note)
    return names


def put(folder: Path, name: str, network: str = "resnet18+simple") -> Path:
    path = folder / name
    part = path.with_suffix(".part")
    part.write_bytes(add_spec(b"", default_spec(network)))
    return part.replace(path)


def listed(networks: Catalogue) -> dict[str, str]:
    """The backbone of each network whose file is in the folder."""
    of_zoo = {info.name for info in Catalogue("default").infos({})}
    return {info.name: info.backbone for info in networks.infos({}) if info.name not in of_zoo}


def test_a_file_is_read_once_for_as_long_as_it_is_the_same(tmp_path: Path, read: list[str]) -> None:
    put(tmp_path, "a.onnx")
    put(tmp_path, "b.onnx")
    networks = Catalogue("default", folder=tmp_path)
    for _ in range(3):
        assert listed(networks) == {"a": "resnet18", "b": "resnet18"}
        networks.check("a")
    assert sorted(read) == ["a.onnx", "b.onnx"]
    before = put(tmp_path, "c.onnx").stat()
    os.utime(put(tmp_path, "a.onnx", "resnet34+simple"), ns=(0, before.st_mtime_ns))
    assert listed(networks) == {"a": "resnet34", "b": "resnet18", "c": "resnet18"}
    assert sorted(read) == ["a.onnx", "a.onnx", "b.onnx", "c.onnx"]


def test_a_file_that_became_damaged_is_neither_listed_nor_taken(
    tmp_path: Path, read: list[str]
) -> None:
    file = put(tmp_path, "a.onnx")
    networks = Catalogue("default", folder=tmp_path)
    assert "a" in listed(networks)
    file.write_bytes(file.read_bytes()[:-1])
    assert "a" not in listed(networks)
    with pytest.raises(CheckpointError, match=r"a\.onnx is damaged"):
        networks.check("a")
    assert len(read) == 3


@pytest.mark.parametrize("at", ["reading", "looking"])
def test_a_file_that_is_removed_while_the_list_is_made_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    put(tmp_path, "a.onnx")
    file = put(tmp_path, "b.onnx")
    networks = Catalogue("default", folder=tmp_path)

    def remove(path: Path) -> NetworkSpec:
        """`b` goes when it is about to be read, or while `a`, which is before it, is."""
        if at == "looking" or path == file:
            file.unlink(missing_ok=True)
        return read_onnx_spec(path)

    monkeypatch.setattr(catalogue, "read_onnx_spec", remove)
    assert listed(networks) == {"a": "resnet18"}


def test_a_plus_of_a_query_comes_as_a_space() -> None:
    catalogue = Catalogue("default")
    assert catalogue.name_of("resnet50 deconv") == "resnet50+deconv"
    with pytest.raises(UnknownName, match=r"'no\+net'"):
        catalogue.name_of("no net")
