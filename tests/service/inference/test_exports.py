"""What the cache of exports keeps: the newest of each network, however often it is swapped."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from heads.checkpoint import load_arrays, save_arrays, save_checkpoint
from heads.network import build
from heads.onnx_file import read_onnx_spec
from heads.spec import default_spec
from heads.zoo import locate
from service.inference import exports
from service.inference.exports import KEPT, Exports
from tests.conftest import ROOT
from tests.processes import family


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HRPOSE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "exports"


def write(path: Path, number: int) -> Path:
    """A checkpoint of a structure that is exported without torch; another one by its number."""
    spec, tensors = load_arrays(locate("hrnet_w18_small"))
    tensors["backbone.bn1.bias"] = tensors["backbone.bn1.bias"] + np.float32(number)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_arrays(path, spec, tensors)
    return path


def kept(cache: Path) -> set[Path]:
    return set(cache.glob("*.onnx"))


def test_a_checkpoint_that_changes_keeps_its_newest_export_and_the_one_before(
    cache: Path, tmp_path: Path
) -> None:
    made = [Exports().get(write(tmp_path / "best.safetensors", n)) for n in range(4)]
    assert len(set(made)) == 4
    assert kept(cache) == set(made[-KEPT:])
    assert len(list(cache.glob(".*.lock"))) == KEPT


def test_a_checkpoint_that_is_replaced_while_it_is_exported_is_exported_as_it_is_then(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a training run; the file named by the first one must not hold the second one."""
    path, export = tmp_path / "best.safetensors", exports._write

    def replaced(target: Path, source: str | Path, network: str | None) -> None:
        monkeypatch.setattr(exports, "_write", export)
        write(path, 1)
        export(target, source, network)

    monkeypatch.setattr(exports, "_write", replaced)
    made = Exports().get(write(path, 0))
    assert kept(cache) == {made}
    assert Exports().get(path) == made
    first = Exports().get(write(path, 0))
    assert first.read_bytes() != made.read_bytes()


def test_exports_of_another_file_stay_even_if_it_has_the_same_name(
    cache: Path, tmp_path: Path
) -> None:
    others = [
        Exports().get(write(tmp_path / name, 0))
        for name in ("other/best.safetensors", "best-1.safetensors", "be.safetensors")
    ]
    others.append(Exports().get("hrnet_w18_small"))
    made = [Exports().get(write(tmp_path / "best.safetensors", n)) for n in range(3)]
    assert kept(cache) == {*others, *made[-KEPT:]}


def test_an_export_that_was_removed_can_be_read_by_who_has_it_open(
    cache: Path, tmp_path: Path
) -> None:
    first = Exports().get(write(tmp_path / "best.safetensors", 0))
    content = first.read_bytes()
    with first.open("rb") as file:
        for n in range(1, KEPT + 1):
            Exports().get(write(tmp_path / "best.safetensors", n))
        assert first not in kept(cache)
        assert file.read() == content


def test_what_was_compiled_and_is_longest_unused_makes_room(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "COMPILED_SHARE", 0.5)
    folder = cache / "openvino"
    folder.mkdir(parents=True)
    blobs = [folder / f"{n}.blob" for n in range(4)]
    size = Exports().get(write(tmp_path / "best.safetensors", 0)).stat().st_size
    for days, blob in enumerate(blobs):
        blob.write_bytes(bytes(size // 3))
        os.utime(blob, (86400 * days, 0))
    (folder / "of_somebody_else").write_bytes(bytes(size))
    Exports().get(write(tmp_path / "best.safetensors", 1))
    # Half of two exports: room for three thirds of one.
    assert set(folder.glob("*.blob")) == set(blobs[1:])
    assert (folder / "of_somebody_else").exists()


def test_nothing_is_removed_where_nothing_was_exported(cache: Path, tmp_path: Path) -> None:
    made = Exports().get(write(tmp_path / "best.safetensors", 0))
    blob = cache / "openvino" / "1.blob"
    blob.parent.mkdir()
    blob.write_bytes(bytes(10 * made.stat().st_size))
    assert Exports().get(tmp_path / "best.safetensors") == made
    assert blob.exists()


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="processes are read from /proc")
def test_a_killed_process_leaves_no_export_running(tmp_path: Path) -> None:
    source, target = _needs_torch(tmp_path / "own.safetensors"), tmp_path / "x.onnx"
    code = f"""
from pathlib import Path
from service.inference import exports
exports._export(Path({str(target)!r}), Path({str(source)!r}), None)
"""
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) as process:
        _wait(lambda: len(family(process.pid)) == 2)
        exporting = family(process.pid)[1]
        process.kill()
    _wait(lambda: not _runs(exporting))
    assert not target.exists()


def test_torch_exports_in_a_process_that_ends_well(cache: Path, tmp_path: Path) -> None:
    made = Exports().get(_needs_torch(tmp_path / "own.safetensors"))
    assert made.parent == cache
    assert read_onnx_spec(made).input_size == (64, 64)


def _needs_torch(path: Path) -> Path:
    """A checkpoint of a structure that no graph came along for."""
    spec = default_spec("mobilenet_v2+deconv", input_size=(64, 64))
    save_checkpoint(path, spec, build(spec).state_dict())
    return path


def _runs(pid: int) -> bool:
    """Nobody may be there to take note of its end; its command line is empty then."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except FileNotFoundError:
        return False


def _wait(until: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.05)
