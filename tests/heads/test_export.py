"""A network as one ONNX file: everything in it, whole or refused, and the same answers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from heads import export
from heads.errors import CheckpointError, ExportError
from heads.export import export_onnx
from heads.fold import folded
from heads.load import load
from heads.network import Network, build, input_tensor
from heads.onnx_file import INPUT, read_onnx_spec
from heads.spec import Normalisation, default_spec

onnx = pytest.importorskip("onnx", reason="onnx is not installed")

FORMS = (
    "hrnet_w18_small+simple",
    "hrnet_w18_small+fuse",
    "resnet18+deconv",
    "mobilenet_v3_small+pyramid",
    "mobilenet_v2+center",
    "hrnet_w18_small+classify",
    "shufflenet_v2_x0_5+classify",
    "resnet18+segment",
    "mobilenet_v2+fpn",
)


def made(form: str) -> Network:
    """A network with weights and statistics of no use but of an ordinary size."""
    torch.manual_seed(0)
    network = build(default_spec(form, input_size=(64, 96)))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    return network.eval()


def photos(count: int, size: tuple[int, int]) -> torch.Tensor:
    return torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (count, *size, 3), dtype=np.uint8)
    )


def answers(network: Network, images: torch.Tensor) -> dict[str, Any]:
    with torch.inference_mode():
        maps = network(input_tensor(network.spec, images))
    named = maps if isinstance(maps, dict) else {"output": maps}
    return {name: values.numpy() for name, values in named.items()}


@pytest.mark.parametrize("form", FORMS)
def test_every_kind_of_head_answers_the_same_from_its_file(form: str, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    network = made(form).train()
    export_onnx(network, tmp_path / "x.onnx")
    assert network.training
    network.eval()
    session = runtime.InferenceSession(str(tmp_path / "x.onnx"))
    names = [output.name for output in session.get_outputs()]
    sizes = [network.spec.input_size]
    if network.spec.task in ("people", "segment"):
        sizes = [(64, 96), (160, 32)]
    for size in sizes:
        for count in (1, 3):
            images = photos(count, size)
            wanted = answers(network, images)
            assert set(names) == set(wanted)
            found = dict(zip(names, session.run(names, {INPUT: images.numpy()}), strict=True))
            for name, values in wanted.items():
                assert found[name].shape == values.shape
                assert np.abs(found[name] - values).max() < 4e-5 * np.ptp(values)


def test_colour_order_and_normalisation_are_in_the_file(tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    network = made("squeezenet1_1+simple")
    norm = Normalisation(mean=(0.1, 0.5, 0.7), std=(0.3, 0.2, 0.1), channel_order="bgr")
    network.spec = network.spec.model_copy(update={"normalisation": norm})
    export_onnx(network, tmp_path / "x.onnx")
    session = runtime.InferenceSession(str(tmp_path / "x.onnx"))
    images = photos(2, network.spec.input_size)
    (found,) = session.run(None, {INPUT: images.numpy()})
    wanted = answers(network, images)["output"]
    assert np.abs(found - wanted).max() < 4e-5 * np.ptp(wanted)


def test_the_file_is_an_ordinary_onnx_file_with_the_spec_in_it(tmp_path: Path) -> None:
    network = load("hrnet_w18_small")
    export_onnx(network, tmp_path / "x.onnx")
    assert read_onnx_spec(tmp_path / "x.onnx") == network.spec
    model = onnx.load(tmp_path / "x.onnx")
    onnx.checker.check_model(model)
    assert {entry.key for entry in model.metadata_props} == {"hrpose", "hrpose_sha256"}
    operations = {node.op_type for node in model.graph.node}
    assert "Conv" in operations
    assert "BatchNormalization" not in operations


@pytest.mark.parametrize("at", [0, 100, 0.5, -100, -70, -10])
def test_a_changed_byte_is_noticed(tmp_path: Path, at: float) -> None:
    path = tmp_path / "x.onnx"
    export_onnx(made("squeezenet1_1+simple"), path)
    file = bytearray(path.read_bytes())
    file[int(at * len(file)) if at == 0.5 else int(at)] ^= 0x10
    path.write_bytes(file)
    with pytest.raises(CheckpointError, match=r"x\.onnx is damaged"):
        read_onnx_spec(path)


@pytest.mark.parametrize("length", [0, 10, 83, 1000, -1])
def test_a_short_file_is_noticed(tmp_path: Path, length: int) -> None:
    path = tmp_path / "x.onnx"
    export_onnx(made("squeezenet1_1+simple"), path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CheckpointError, match=r"x\.onnx is damaged, truncated or no export"):
        read_onnx_spec(path)


def test_no_file_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"x\.onnx cannot be read: No such file"):
        read_onnx_spec(tmp_path / "x.onnx")


def test_what_onnx_has_no_words_for_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    class Strange(nn.Module):
        def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
            strange: torch.Tensor = torch.linalg.matrix_exp(maps[0][..., :8, :8].contiguous())
            return strange

    network = made("squeezenet1_1+simple")
    network.head = Strange()
    with pytest.raises(ExportError, match=r"squeezenet1_1\+simple cannot be written as ONNX"):
        export_onnx(network, tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


def test_the_process_of_an_export_says_what_is_wrong_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export.main("nonsense", str(tmp_path / "x.onnx")) == 1
    assert "there is no network called 'nonsense'" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert export.main("hrnet_w18_small", str(tmp_path / "file" / "x.onnx")) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("form", FORMS)
def test_folding_leaves_no_norm_and_the_network_as_it_was(form: str) -> None:
    network = made(form)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    less = folded(network)
    assert less is not network
    assert not [module for module in less.modules() if isinstance(module, nn.BatchNorm2d)]
    x = input_tensor(network.spec, photos(2, network.spec.input_size))
    with torch.inference_mode():
        wanted, found = network(x), less(x)
    pairs = [(wanted[k], found[k]) for k in wanted] if isinstance(wanted, dict) else []
    for a, b in pairs or [(wanted, found)]:
        assert float((a - b).abs().max()) < 4e-5 * float(a.max() - a.min())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_what_cannot_be_folded_is_run_as_it_is() -> None:
    network = made("res2net50_14w_8s+classify")
    assert folded(network) is network
