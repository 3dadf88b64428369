"""Packing: smaller files that load as ordinary checkpoints, and lose what they should lose."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from heads.checkpoint import load_network, save_arrays, save_checkpoint
from heads.errors import CheckpointError
from heads.network import Network, build
from heads.spec import default_spec
from models.errors import SpecError
from training.compress import (
    clusters,
    eight_bits,
    low_rank,
    prune_smallest,
    save_packed,
    sparse,
)

WEIGHT = "backbone.features.5.conv.0.0.weight"


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    return build(default_spec("mobilenet_v2+classify")).eval()


def test_what_is_packed_claims_no_score_and_no_name_of_the_original(
    network: Network, tmp_path: Path
) -> None:
    scored = network.spec.provenance.model_copy(update={"scores": {"top-1": 0.7}})
    network.spec = network.spec.model_copy(update={"provenance": scored})
    save_packed(tmp_path / "small.safetensors", network, eight_bits)
    packed = load_network(tmp_path / "small.safetensors").spec
    assert packed.name == f"{network.spec.name}_packed"
    assert packed.provenance.scores == {}


def loaded_weight(path: Path) -> Any:
    return load_network(path).state_dict()[WEIGHT]


def test_eight_bits_are_within_half_a_step(network: Network, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_packed(path, network, eight_bits)
    weight = network.state_dict()[WEIGHT]
    step = weight.flatten(1).abs().amax(dim=1) / 127
    error = (loaded_weight(path) - weight).flatten(1).abs().amax(dim=1)
    assert (error <= 0.51 * step).all()
    plain = tmp_path / "plain.safetensors"
    save_checkpoint(plain, network.spec, network.state_dict())
    assert path.stat().st_size < 0.3 * plain.stat().st_size


def test_clusters_have_so_many_values(network: Network, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_packed(path, network, clusters(16))
    weight, packed = network.state_dict()[WEIGHT], loaded_weight(path)
    assert 8 < len(packed.unique()) <= 16
    assert (packed - weight).std() < 0.3 * weight.std()


def test_pruning_sets_the_smallest_to_zero(network: Network, tmp_path: Path) -> None:
    before = network.state_dict()[WEIGHT].clone()
    prune_smallest(network, 0.8)
    path = tmp_path / "x.safetensors"
    save_packed(path, network, sparse)
    after = loaded_weight(path)
    gone = after == 0
    assert 0 < gone.float().mean() < 1
    assert before[gone].abs().max() <= before[~gone].abs().min()
    torch.testing.assert_close(after[~gone], before[~gone], rtol=1e-3, atol=1e-5)


def test_pruning_does_not_ask_how_weights_lie(network: Network) -> None:
    trained = copy.deepcopy(network).to(memory_format=torch.channels_last)  # as the loop has them
    prune_smallest(network, 0.3)
    prune_smallest(trained, 0.3)
    torch.testing.assert_close(trained.state_dict(), network.state_dict(), rtol=0, atol=0)


def test_low_rank_is_the_best_of_that_rank(network: Network, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_packed(path, network, low_rank(4))
    weight, packed = network.state_dict()[WEIGHT].flatten(1), loaded_weight(path).flatten(1)
    assert torch.linalg.matrix_rank(packed, rtol=1e-2) == 4
    left_over = torch.linalg.svdvals(weight)[4:].square().sum().sqrt()
    assert (packed - weight).norm() == pytest.approx(float(left_over), rel=1e-2)


@pytest.mark.parametrize("make", [lambda: low_rank(0), lambda: clusters(1), lambda: clusters(257)])
def test_what_cannot_be_meant_is_refused(make: Any) -> None:
    with pytest.raises(SpecError):
        make()


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5])
def test_a_share_outside_0_and_1_is_refused(network: Network, share: float) -> None:
    with pytest.raises(SpecError, match="between 0 and 1"):
        prune_smallest(network, share)


@pytest.mark.parametrize(
    "parts",
    [
        {"w|int8|codes": np.zeros((2, 2), np.int8)},
        {"w|nonsense|x": np.zeros(1)},
        {"w|cluster|codes": np.full((2, 2), 9, np.uint8), "w|cluster|values": np.zeros(2, "f4")},
        {"w": np.zeros(1, "f4"), "w|int8|codes": np.zeros((2, 2), np.int8)},
    ],
)
def test_damaged_packing_is_refused_by_name(tmp_path: Path, parts: dict[str, Any]) -> None:
    path = tmp_path / "x.safetensors"
    save_arrays(path, default_spec("resnet18+simple"), parts)
    with pytest.raises(CheckpointError, match=r"^x\.safetensors: w is"):
        load_network(path)


def test_values_too_large_for_half_precision_stay(network: Network, tmp_path: Path) -> None:
    name = next(n for n in network.state_dict() if n.endswith("running_var"))
    network.state_dict()[name].fill_(1e5)
    save_packed(tmp_path / "x.safetensors", network, eight_bits)
    assert (load_network(tmp_path / "x.safetensors").state_dict()[name] == 1e5).all()


def test_clusters_leave_small_weights_and_do_not_move_what_is_clustered() -> None:
    weight = torch.randn(64, 64, 3, 3, generator=torch.Generator().manual_seed(0))
    parts = clusters(16)(weight)
    assert parts is not None
    again = clusters(16)(torch.from_numpy(parts["cluster|values"][parts["cluster|codes"]]))
    assert again is not None
    np.testing.assert_array_equal(again["cluster|values"], parts["cluster|values"])
    np.testing.assert_array_equal(again["cluster|codes"], parts["cluster|codes"])
    assert clusters(256)(weight[:16, :1]) is None
