"""One file holds a whole network; what is no such file is refused by name."""

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from heads.checkpoint import load_checkpoint, load_network, read_spec, save_checkpoint
from heads.errors import CheckpointError
from heads.network import build
from heads.spec import BackboneSpec, FuseHead, NetworkSpec, Provenance, default_spec
from models.errors import WeightsError

SPEC = NetworkSpec(
    name="tiny",
    task="pose",
    backbone=BackboneSpec(name="mobilenet_v2", options={"width_multiplier": 0.25}),
    head=FuseHead(channels=8),
    input_size=(64, 32),
    provenance=Provenance(origin="a test", scores={"ap": 0.5}),
)


BIAS = "head.final_layer.bias"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "tiny.safetensors"
    save_checkpoint(path, SPEC, build(SPEC).state_dict())
    return path


def test_a_network_comes_back_as_it_was(saved: Path) -> None:
    torch.manual_seed(0)
    original = build(SPEC).eval()
    network = load_network(saved)
    assert network.spec == SPEC == read_spec(saved)
    assert not network.training
    x = torch.randn(2, 3, 64, 32)
    torch.testing.assert_close(network(x), original(x), rtol=0, atol=0)


def test_half_precision_halves_the_file(saved: Path, tmp_path: Path) -> None:
    _, state = load_checkpoint(saved)
    half = tmp_path / "half.safetensors"
    save_checkpoint(half, SPEC, state, half=True)
    assert half.stat().st_size < 0.6 * saved.stat().st_size
    _, back = load_checkpoint(half)
    name = "head.final_layer.weight"
    assert back[name].dtype == torch.float32
    torch.testing.assert_close(back[name], state[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_refused_by_name(saved: Path, share: float) -> None:
    data = saved.read_bytes()
    saved.write_bytes(data[: int(len(data) * share)])
    for read in (read_spec, load_checkpoint):
        with pytest.raises(CheckpointError, match=r"tiny\.safetensors is damaged, truncated"):
            read(saved)


def test_other_files_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(
        CheckpointError, match=r"other\.safetensors is a safetensors file of another"
    ):
        load_checkpoint(path)
    path.write_bytes(b"PK\x03\x04" + os.urandom(200))
    with pytest.raises(CheckpointError, match=r"other\.safetensors is damaged"):
        load_checkpoint(path)
    with pytest.raises(CheckpointError, match=r"there is no file gone\.safetensors"):
        read_spec(tmp_path / "gone.safetensors")


def test_a_later_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "later.safetensors"
    save_file(
        {"x": torch.zeros(1)}, path, metadata={"hrpose": json.dumps({"format": 99, "spec": {}})}
    )
    with pytest.raises(CheckpointError, match="format 99; this version reads up to 1"):
        read_spec(path)
    save_file({"x": torch.zeros(1)}, path, metadata={"hrpose": "{"})
    with pytest.raises(CheckpointError, match="damaged metadata"):
        read_spec(path)
    save_file({"x": torch.zeros(1)}, path, metadata={"hrpose": "[" * 100_000})
    with pytest.raises(CheckpointError, match="damaged metadata"):
        read_spec(path)


@pytest.mark.parametrize(
    "odd",
    [
        {"padding": float("inf")},
        {"threshold": float("nan")},
        {"input_size": [128000, 128000]},
        {"codec": {"blur_kernel": 99999999}},
    ],
    ids=str,
)
def test_a_spec_that_nothing_can_be_fed_by_is_refused(saved: Path, odd: dict[str, Any]) -> None:
    spec, state = load_checkpoint(saved)
    content = {"format": 1, "spec": spec.model_dump(mode="json") | odd}
    save_file(state, saved, metadata={"hrpose": json.dumps(content)})
    with pytest.raises(CheckpointError, match="damaged metadata"):
        read_spec(saved)


def test_a_network_too_large_to_be_built_is_refused(saved: Path) -> None:
    spec, state = load_checkpoint(saved)
    spec = spec.model_copy(update={"head": FuseHead(channels=10**9)})
    save_checkpoint(saved, spec, state)
    with pytest.raises(CheckpointError, match="cannot be built"):
        load_network(saved)


def test_a_missing_tensor_is_an_error_that_names_it(saved: Path) -> None:
    spec, state = load_checkpoint(saved)
    del state["head.final_layer.bias"]
    state["head.surplus"] = torch.zeros(1)
    save_checkpoint(saved, spec, state)
    with pytest.raises(WeightsError, match=r"head\.final_layer\.bias") as caught:
        load_network(saved)
    assert caught.value.missing == ("head.final_layer.bias",)
    assert caught.value.unexpected == ("head.surplus",)


def test_a_failed_write_leaves_the_old_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"tiny\.safetensors cannot be written.*No space"):
        save_checkpoint(saved, SPEC, build(SPEC).state_dict())
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_one_changed_digit_of_the_spec_is_refused(saved: Path) -> None:
    content = saved.read_bytes()
    assert content.count(b"0.485") == 1
    saved.write_bytes(content.replace(b"0.485", b"0.885"))
    for read in (read_spec, load_network):
        with pytest.raises(CheckpointError, match="its spec is not the one that was written"):
            read(saved)


def test_a_spec_of_absurd_width_is_refused(saved: Path) -> None:
    head = default_spec("resnet18+deconv").head.model_copy(update={"channels": (10**30,) * 3})
    spec = default_spec("resnet18+deconv").model_copy(update={"head": head})
    save_checkpoint(saved, spec, {"x": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="no network has such sizes"):
        load_network(saved)


def test_one_changed_bit_of_a_tensor_is_refused(saved: Path) -> None:
    content = bytearray(saved.read_bytes())
    content[-1001] ^= 0x01
    saved.write_bytes(content)
    assert read_spec(saved) == SPEC
    with pytest.raises(CheckpointError, match="its tensors are not those that were written"):
        load_network(saved)


def written(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    """A checkpoint as another program may write it: without a hash, of any tensors."""
    content = {"format": 1, "spec": SPEC.model_dump(mode="json")}
    save_file(tensors, path, metadata={"hrpose": json.dumps(content)})
    return path


def test_a_file_without_a_hash_is_read(tmp_path: Path) -> None:
    state = build(SPEC).state_dict()
    path = written(tmp_path / "old.safetensors", state)
    assert torch.equal(load_checkpoint(path)[1]["head.final_layer.bias"], state[BIAS])


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float8_e4m3fn])
def test_tensors_of_a_kind_that_numpy_lacks_are_refused(tmp_path: Path, kind: torch.dtype) -> None:
    path = written(tmp_path / "other.safetensors", {"x": torch.zeros(1, dtype=kind)})
    with pytest.raises(CheckpointError, match=r"other\.safetensors has tensors that numpy lacks"):
        load_checkpoint(path)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    state = build(SPEC).state_dict() | {BIAS: torch.full((17,), value)}
    path = written(tmp_path / "nan.safetensors", state)
    with pytest.raises(CheckpointError, match=rf"nan\.safetensors: {BIAS} has values that are not"):
        load_network(path)


def test_values_too_large_for_half_precision_stay_as_they_are(tmp_path: Path) -> None:
    name = next(n for n, t in build(SPEC).state_dict().items() if n.endswith("running_var"))
    state = build(SPEC).state_dict()
    state[name].fill_(1e5)
    save_checkpoint(tmp_path / "half.safetensors", SPEC, state, half=True)
    assert (load_checkpoint(tmp_path / "half.safetensors")[1][name] == 1e5).all()


def test_the_same_network_is_the_same_file(tmp_path: Path) -> None:
    """The library writes two entries of metadata in either order, as it happens."""
    spec = default_spec("mobilenet_v2+classify")
    tensors = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.zeros(3)}
    files = set()
    for _ in range(16):
        save_checkpoint(tmp_path / "x.safetensors", spec, tensors)
        files.add((tmp_path / "x.safetensors").read_bytes())
    assert len(files) == 1
    kept_spec, kept = load_checkpoint(tmp_path / "x.safetensors")
    assert kept_spec == spec
    assert all(torch.equal(kept[name], tensor) for name, tensor in tensors.items())
