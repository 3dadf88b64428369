"""Networks in 8-bit integers."""

from pathlib import Path

import numpy as np
import pytest
import torch

from commands.quantize import what_it_sees
from heads.errors import ExportError
from heads.export import export_onnx
from heads.image import photographs, read_image, warp
from heads.load import load
from heads.network import build
from heads.onnx_file import read_onnx_spec
from heads.spec import default_spec
from tests.conftest import ROOT

pytest.importorskip("nncf", reason="the package nncf is not installed")

from heads.quantize import FEWEST, quantize_onnx


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("exact") / "hrnet.onnx"
    export_onnx(load("hrnet_w18_small"), file)
    return file


def samples(count: int) -> list[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
    height, width = load("hrnet_w18_small").spec.input_size
    return list(np.random.default_rng(0).integers(0, 255, (count, height, width, 3), np.uint8))


def test_too_few_samples_are_refused_and_nothing_is_written(exact: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=f"needs {FEWEST} sample images"):
        quantize_onnx(exact, samples(FEWEST - 1), tmp_path / "small.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_network_is_fitted_to_whole_photographs_where_there_is_no_detector(exact: Path) -> None:
    photos = ROOT / "docs"
    names = photographs(photos)
    height, width = read_onnx_spec(exact).input_size
    seen = what_it_sees(exact, photos, "none")
    assert len(seen) == len(names)
    whole = read_onnx_spec(exact).crop((0, 0, *read_image(names[0]).shape[1::-1]))
    # JPEGs may be decoded at a part of their size.
    near = np.abs(seen[0].astype(int) - warp(read_image(names[0]), whole))
    assert near.shape == (height, width, 3)
    assert near.mean() < 8


@pytest.mark.slow
def test_both_runtimes_run_the_small_file_of_depthwise_convolutions(tmp_path: Path) -> None:
    """Whose inputs may not have a range a channel for ONNX Runtime."""
    onnx = pytest.importorskip("onnxruntime", reason="the package onnxruntime is not installed")
    assert onnx
    from service.inference.runtime import OnnxRuntime, OpenVinoRuntime

    torch.manual_seed(0)
    spec = default_spec("shufflenet_v2_x0_5+center", input_size=(64, 64))
    whole, small = tmp_path / "whole.onnx", tmp_path / "small.onnx"
    export_onnx(build(spec).eval(), whole)
    given = np.random.default_rng(0).integers(0, 255, (FEWEST, 64, 64, 3), np.uint8)
    quantize_onnx(whole, list(given), small)
    for runtime in (OnnxRuntime(small), OpenVinoRuntime(small)):
        of_small, of_whole = runtime.run(given[:2]), OnnxRuntime(whole).run(given[:2])
        for name, values in of_whole.items():
            assert np.corrcoef(of_small[name].ravel(), values.ravel())[0, 1] > 0.9, name


@pytest.mark.slow
def test_the_small_file_is_served_and_says_what_it_is(exact: Path, tmp_path: Path) -> None:
    from service.inference.runtime import OpenVinoRuntime

    small = tmp_path / "small.onnx"
    given = samples(FEWEST)
    quantize_onnx(exact, given, small)
    assert small.stat().st_size < 0.5 * exact.stat().st_size
    spec, original = read_onnx_spec(small), read_onnx_spec(exact)
    assert spec.name == f"{original.name}_int8"
    assert spec.provenance.scores == {}
    assert spec.skeleton == original.skeleton
    batch = np.stack(given[:2])
    of_small = OpenVinoRuntime(small).run(batch)["output"]
    of_exact = OpenVinoRuntime(exact).run(batch)["output"]
    # The same maps, coarser: neither noise nor the original.
    likeness = np.corrcoef(of_small.ravel(), of_exact.ravel())[0, 1]
    assert 0.9 < likeness < 1.0
