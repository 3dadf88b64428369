"""Reading files of every kind, renaming, and the refusal of whatever does not fit."""

import math
import os
import pickle
import random
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save, save_file
from torch import Tensor, nn

from models import create_backbone
from models.errors import WeightsError
from models.weights import detect_source, load_strict, load_weights, read_state, rename

TINY = {"conv1.weight": torch.arange(6.0).reshape(2, 3), "layer1.0.bn1.bias": torch.ones(2)}


def assert_equal(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def test_a_pytorch_file_is_read_in_both_of_its_formats(tmp_path: Path) -> None:
    for zipped in (True, False):
        torch.save(TINY, tmp_path / "tiny.pth", _use_new_zipfile_serialization=zipped)
        assert_equal(read_state(tmp_path / "tiny.pth"), TINY)


def test_a_safetensors_file_is_known_by_its_content(tmp_path: Path) -> None:
    save_file(TINY, tmp_path / "tiny.bin")
    assert_equal(read_state(str(tmp_path / "tiny.bin")), TINY)


@pytest.mark.parametrize(
    "wrapped",
    [
        {"state_dict": TINY, "meta": {"epoch": 210}},
        {"best_state_dict": TINY, "model": "pose_hrnet", "optimizer": {"lr": 0.1}},
        {"module." + name: tensor for name, tensor in TINY.items()},
        {"epoch": 3, "state_dict": {"module." + name: tensor for name, tensor in TINY.items()}},
    ],
    ids=["state_dict", "best_state_dict", "module", "both"],
)
def test_wrappings_are_taken_off(wrapped: dict[str, Any], tmp_path: Path) -> None:
    torch.save(wrapped, tmp_path / "wrapped.pth.tar")
    assert_equal(read_state(tmp_path / "wrapped.pth.tar"), TINY)


def test_numpy_values_beside_the_tensors_are_admitted(tmp_path: Path) -> None:
    # as mmpose 1.x writes them: colours, weights, sigmas of its data set
    meta = {
        "sigmas": np.array([0.026, 0.025], dtype=np.float32),
        "colors": np.array([[0, 255, 0]], dtype=np.uint8),
        "ids": np.arange(3),
        "score": np.float64(0.749),
    }
    torch.save({"meta": meta, "state_dict": TINY}, tmp_path / "mmpose.pth")
    assert_equal(read_state(tmp_path / "mmpose.pth"), TINY)


def test_loss_curves_of_mmengine_are_admitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("mmengine.logging.history_buffer")
    buffer_type = type("HistoryBuffer", (), {"__module__": module.__name__})
    module.HistoryBuffer = buffer_type  # type: ignore[attr-defined]
    with monkeypatch.context() as patch:
        for name in ("mmengine", "mmengine.logging"):
            patch.setitem(sys.modules, name, ModuleType(name))
        patch.setitem(sys.modules, module.__name__, module)
        buffer = buffer_type()
        buffer.__dict__.update(max_length=10, _log_history=np.array([0.5, 0.4]))
        torch.save({"message_hub": {"loss": buffer}, "state_dict": TINY}, tmp_path / "train.pth")
    assert_equal(read_state(tmp_path / "train.pth"), TINY)


class Shell:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_is_not_run(zipped: bool, tmp_path: Path) -> None:
    shell = Shell(f"touch {tmp_path / 'was_run'}")
    torch.save(
        {"state_dict": TINY, "evil": shell},
        tmp_path / "evil.pth",
        _use_new_zipfile_serialization=zipped,
    )
    with pytest.raises(WeightsError, match=r"evil\.pth is damaged, cut short or no weight file"):
        read_state(tmp_path / "evil.pth")
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(shell))
    with pytest.raises(WeightsError, match=r"raw\.pth is damaged"):
        read_state(tmp_path / "raw.pth")
    assert not (tmp_path / "was_run").exists()


@pytest.mark.parametrize(
    "odd",
    [
        torch.tensor([math.nan]),
        torch.zeros(1).to_sparse(),
        torch.zeros(1, device="meta"),
        torch.zeros(1, dtype=torch.complex64),
        torch.zeros(1, dtype=torch.float8_e4m3fn),
    ],
    ids=["nan", "sparse", "meta", "complex", "float8"],
)
def test_what_no_network_computes_with_is_refused_by_name(
    odd: torch.Tensor, tmp_path: Path
) -> None:
    torch.save({**TINY, "odd": odd}, tmp_path / "odd.pth")
    with pytest.raises(WeightsError, match=r"odd\.pth holds values .*: odd"):
        read_state(tmp_path / "odd.pth")


def bytes_of(kind: str, folder: Path) -> bytes:
    if kind == "safetensors":
        return save(TINY)
    torch.save(TINY, folder / "whole", _use_new_zipfile_serialization=kind == "zip")
    return (folder / "whole").read_bytes()


KINDS = ["safetensors", "zip", "legacy"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_cut_short_anywhere_is_refused(kind: str, tmp_path: Path) -> None:
    whole = bytes_of(kind, tmp_path)
    for length in sorted({*range(0, len(whole), 23), len(whole) - 1}):
        (tmp_path / "cut.pth").write_bytes(whole[:length])
        with pytest.raises(WeightsError, match=r"cut\.pth"):
            read_state(tmp_path / "cut.pth")


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_read_or_refused_but_nothing_else(kind: str, tmp_path: Path) -> None:
    whole = bytes_of(kind, tmp_path)
    chance = random.Random(kind)
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(chance.choice((1, 1, 2, 8))):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        (tmp_path / "damaged.pth").write_bytes(damaged)
        try:
            state = read_state(tmp_path / "damaged.pth")
        except WeightsError as error:
            assert "damaged.pth" in str(error)  # noqa: PT017
            assert str(tmp_path) not in str(error)  # noqa: PT017
        else:
            assert all(isinstance(tensor, Tensor) for tensor in state.values())


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "foreign.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"foreign\.pth"):
        read_state(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "other.pth holds a list, not named tensors"),
        ({}, "other.pth holds nothing, not named tensors"),
        ({"epoch": 3, "conv1.weight": torch.ones(1)}, "other.pth holds epoch, not named tensors"),
        ({"state_dict": {}}, "other.pth holds nothing, not named tensors"),
        (torch.ones(2), "other.pth holds a Tensor, not named tensors"),
    ],
)
def test_a_file_of_something_else_is_refused(content: object, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=message):
        read_state(tmp_path / "other.pth")


def test_a_missing_file_and_a_folder_are_refused_without_their_path(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"^cannot read none.pth: No such file or directory$"):
        read_state(tmp_path / "none.pth")
    (tmp_path / "folder").mkdir()
    with pytest.raises(WeightsError, match=r"^cannot read folder: Is a directory$"):
        read_state(tmp_path / "folder")


@pytest.mark.parametrize(
    ("source", "names"),
    [
        (
            "official",
            {
                "conv1.weight": "backbone.conv1.weight",
                "stage2.0.fuse_layers.0.1.0.weight": "backbone.stage2.0.fuse_layers.0.1.0.weight",
                "final_layer.weight": "head.final_layer.weight",
            },
        ),
        (
            "official",
            {
                "stage2.0.branches.0.0.bn1.bias": "backbone.stage2.0.branches.0.0.bn1.bias",
                "incre_modules.0.0.conv1.weight": "neck.incre_modules.0.0.conv1.weight",
                "downsamp_modules.0.0.bias": "neck.downsamp_modules.0.0.bias",
                "final_layer.0.bias": "neck.final_layer.0.bias",
                "final_layer.1.running_var": "neck.final_layer.1.running_var",
                "classifier.weight": "head.classifier.weight",
            },
        ),
        (
            "official",
            {
                "layer4.2.conv3.weight": "backbone.layer4.2.conv3.weight",
                "deconv_layers.0.weight": "head.deconv_layers.0.weight",
                "final_layer.bias": "head.final_layer.bias",
            },
        ),
        (
            "official",  # the ImageNet files that the pose networks start from
            {
                "stage2.0.branches.0.0.bn1.bias": "backbone.stage2.0.branches.0.0.bn1.bias",
                "head.0.0.0.conv1.weight": "head.0.0.0.conv1.weight",
            },
        ),
        (
            "mmpose",
            {
                "backbone.conv1.weight": "backbone.conv1.weight",
                "keypoint_head.final_layer.weight": "head.final_layer.weight",
                "keypoint_head.deconv_layers.0.weight": "head.deconv_layers.0.weight",
                "data_preprocessor.mean": None,
                "data_preprocessor.std": None,
            },
        ),
        (
            "hrpose",
            {
                "backbone.features.0.0.weight": "backbone.features.0.0.weight",
                "neck.lateral5.bias": "neck.lateral5.bias",
                "head.center.dw.weight": "head.center.dw.weight",
            },
        ),
        (
            "torchvision",
            {
                "layer1.0.downsample.0.weight": "backbone.layer1.0.downsample.0.weight",
                "fc.weight": "head.classifier.weight",
            },
        ),
        (
            "torchvision",
            {
                "features.18.0.weight": "backbone.features.18.0.weight",
                "classifier.1.bias": "head.classifier.bias",
            },
        ),
        (
            "timm",
            {
                "conv_stem.weight": "backbone.features.0.0.weight",
                "bn1.bias": "backbone.features.0.1.bias",
                "blocks.0.0.conv_pw.weight": "backbone.features.1.conv.1.weight",
                "blocks.4.2.bn3.weight": "backbone.features.13.conv.3.weight",
                "blocks.6.0.conv_pwl.weight": "backbone.features.17.conv.2.weight",
                "bn2.running_mean": "backbone.features.18.1.running_mean",
                "classifier.bias": "head.classifier.bias",
            },
        ),
    ],
)
def test_public_names_become_ours(source: str, names: dict[str, str | None]) -> None:
    state = {name: torch.ones(1) for name in names}
    assert detect_source(state) == source
    assert list(rename(state)) == [new for new in names.values() if new is not None]


def test_unknown_layouts_and_sources_are_refused() -> None:
    with pytest.raises(WeightsError, match="no known layout of tensor names; there is: a, b"):
        detect_source(["b", "a"])
    with pytest.raises(WeightsError, match="no known layout of tensor names; there is: nothing"):
        rename({})
    with pytest.raises(WeightsError, match="no source 'keras'; there is: hrpose, official"):
        rename(TINY, "keras")  # type: ignore[arg-type]


def test_two_tensors_of_one_name_are_refused() -> None:
    state = {
        "keypoint_head.final_layer.bias": torch.ones(1),
        "head.final_layer.bias": torch.ones(1),
    }
    with pytest.raises(WeightsError, match=r"two tensors become head\.final_layer\.bias"):
        rename(state)


def test_a_tensor_missing_unexpected_or_misshapen_is_named() -> None:
    backbone = create_backbone("resnet18", strides=(4,))
    state = dict(backbone.state_dict())
    del state["layer1.1.bn2.weight"], state["conv1.weight"]
    state["layer1.0.bn1.bias"] = torch.ones(3)
    state["layer9.weight"] = torch.ones(1)
    with pytest.raises(WeightsError) as caught:
        load_strict(backbone, state, "some.pth")
    assert str(caught.value) == (
        "some.pth does not fit ResNet: 2 missing (conv1.weight, layer1.1.bn2.weight), "
        "1 unexpected (layer9.weight), 1 misshapen (layer1.0.bn1.bias [3] instead of [64])"
    )
    assert caught.value.missing == ("conv1.weight", "layer1.1.bn2.weight")
    assert caught.value.unexpected == ("layer9.weight",)
    assert caught.value.misshapen == ("layer1.0.bn1.bias",)


def test_a_long_list_of_names_is_cut_in_the_message_only() -> None:
    backbone = create_backbone("resnet18", strides=(4,))
    with pytest.raises(WeightsError, match=r"25 missing \(.*, and 17 more\)") as caught:
        load_strict(backbone, {}, "empty.pth")
    assert len(caught.value.missing) == 25


def test_nothing_is_loaded_if_anything_is_wrong() -> None:
    backbone = create_backbone("resnet18", strides=(4,))
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    state = {name: torch.zeros_like(tensor) for name, tensor in before.items()}
    del state["bn1.weight"]
    with pytest.raises(WeightsError):
        load_weights(backbone, state)
    assert_equal(backbone.state_dict(), before)


def test_counters_of_batch_norm_alone_may_be_missing() -> None:
    source, target = create_backbone("resnet18"), create_backbone("resnet18")
    state = {
        name: tensor for name, tensor in source.state_dict().items() if "num_batches" not in name
    }
    assert len(state) < len(source.state_dict())
    load_weights(target, state)
    assert_equal(target.state_dict(), source.state_dict())
    del state["bn1.running_var"]
    with pytest.raises(WeightsError, match=r"1 missing \(bn1\.running_var\)"):
        load_weights(target, state)


def test_a_head_is_left_out_only_for_a_backbone_alone() -> None:
    backbone = create_backbone("resnet18")
    state = {**backbone.state_dict(), "fc.weight": torch.ones(10, 512), "fc.bias": torch.ones(10)}
    load_weights(backbone, state)
    network = nn.ModuleDict({"backbone": backbone})
    with pytest.raises(WeightsError, match=r"2 unexpected \(head.classifier.bias, head.class"):
        load_weights(network, state)


def test_parts_that_were_not_built_are_left_out_in_a_whole_network_too() -> None:
    whole = create_backbone("resnet18")
    network = nn.ModuleDict({"backbone": create_backbone("resnet18", strides=(8,))})
    load_weights(network, whole.state_dict())
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, whole.state_dict()[name.removeprefix("backbone.")])


def test_half_precision_becomes_the_modules_own() -> None:
    backbone = create_backbone("resnet18", strides=(4,))
    state = {name: tensor.half() for name, tensor in backbone.state_dict().items()}
    load_weights(backbone, state)
    assert {p.dtype for p in backbone.parameters()} == {torch.float32}
    assert torch.equal(backbone.state_dict()["conv1.weight"], state["conv1.weight"].float())


def test_the_file_is_named_when_its_layout_is_unknown(tmp_path: Path) -> None:
    save_file({"encoder.weight": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match=r"other\.safetensors: no known layout.*encoder\.weight"):
        load_weights(create_backbone("resnet18"), tmp_path / "other.safetensors")


def test_the_projects_own_first_hrnet_loads_strictly(weights_folder: Path) -> None:
    backbone = create_backbone("hrnet_w18_small")
    path = weights_folder / "hrnet_w18_small_pose.safetensors"
    load_weights(backbone, path)
    assert_equal(
        {k: v for k, v in read_state(path).items() if not k.startswith("head.")},
        dict(sorted(backbone.state_dict().items())),
    )
