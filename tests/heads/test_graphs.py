"""Checkpoints become ONNX files without torch, and answer as torch does."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from heads import zoo
from heads.checkpoint import load_arrays, save_arrays
from heads.errors import CheckpointError
from heads.export import export_graph
from heads.files import write_whole
from heads.graphs import ENDING, FOLDER, assemble
from heads.load import load
from heads.onnx_file import read_onnx_spec
from service.inference.runtime import OnnxRuntime, TorchRuntime

EMBEDDED = [entry.name for entry in zoo.entries() if entry.embedded]


@pytest.mark.parametrize("name", EMBEDDED)
def test_an_assembled_file_answers_as_torch(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    file = assemble(zoo.locate(name))
    assert file is not None, "its graph is not of this structure; run: make graphs"
    write_whole(tmp_path / "network.onnx", file)
    network = load(name)
    assert read_onnx_spec(tmp_path / "network.onnx") == network.spec
    height, width = network.spec.input_size
    crops = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), dtype=np.uint8)
    found = OnnxRuntime(tmp_path / "network.onnx").run(crops)
    for key, expected in TorchRuntime(network, network.spec, fold=False).run(crops).items():
        assert np.abs(found[key] - expected).max() <= 1e-5 * np.ptp(expected)


def test_graphs_that_lie_here_are_those_that_would_be_written(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    for name in EMBEDDED:
        export_graph(load(name), tmp_path / f"{name}{ENDING}")
        new, old = (folder / f"{name}{ENDING}" for folder in (tmp_path, FOLDER))
        # Another version of torch may write the same graph in other words; the head is ours.
        assert _head(new) == _head(old), "run: make graphs"


def _head(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes()).partition(b"\n")[0]


def test_a_network_trained_anew_needs_no_new_graph(tmp_path: Path) -> None:
    name = "mobilenet_v2_heatmap"
    spec, arrays = load_arrays(zoo.locate(name))
    trained = spec.model_copy(update={"name": "mine", "threshold": 0.5})
    changed = {key: array * np.float16(0.5) for key, array in arrays.items()}
    save_arrays(tmp_path / "mine.safetensors", trained, changed)
    file = assemble(tmp_path / "mine.safetensors")
    assert file is not None
    write_whole(tmp_path / "mine.onnx", file)
    assert read_onnx_spec(tmp_path / "mine.onnx").name == "mine"


def test_a_network_of_another_structure_has_no_graph(tmp_path: Path) -> None:
    spec, arrays = load_arrays(zoo.locate("mobilenet_v2_heatmap"))
    name = next(key for key, array in arrays.items() if array.ndim == 4)
    other = {**arrays, name: arrays[name][:-1]}
    save_arrays(tmp_path / "shape.safetensors", spec, other)
    assert assemble(tmp_path / "shape.safetensors") is None
    other_mean = spec.normalisation.model_copy(update={"mean": (0.4, 0.5, 0.6)})
    tinted = spec.model_copy(update={"normalisation": other_mean})
    save_arrays(tmp_path / "mean.safetensors", tinted, arrays)
    assert assemble(tmp_path / "mean.safetensors") is None


def test_a_damaged_checkpoint_is_said_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="damaged"):
        assemble(tmp_path / "x.safetensors")
