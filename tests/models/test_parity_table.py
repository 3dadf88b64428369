"""docs/parity.json: every backbone has a public twin, and computes what the twin computes."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from models import list_backbones
from models.weights import load_strict, rename
from tests.conftest import ROOT
from tests.models.twins import create, network_of, relative_difference, twins

TOLERANCE = 1e-5  # of the standard deviation of the classes


@pytest.fixture(scope="module")
def table() -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = json.loads((ROOT / "docs" / "parity.json").read_text())
    return rows


def test_every_backbone_has_a_twin_in_the_table(table: dict[str, dict[str, Any]]) -> None:
    assert list(table) == list_backbones()
    for name, twin in twins().items():
        assert table[name]["twin"] == f"{twin.library} {twin.name}", "run `make parity`"
        assert table[name]["score"] == twin.score


def test_no_row_is_above_the_tolerance(table: dict[str, dict[str, Any]]) -> None:
    assert {name for name, row in table.items() if not row["difference"] <= TOLERANCE} == set()


@pytest.mark.slow
@pytest.mark.parametrize("name", list_backbones())
def test_a_backbone_computes_what_its_twin_computes(name: str) -> None:
    assert relative_difference(name, twins()[name]) <= TOLERANCE


@pytest.mark.parametrize(
    "name",
    [
        *("resnet18", "hrnet_w18_small", "squeezenet1_1", "mobilenet_v2", "mobilenet_v3_small"),
        *("shufflenet_v2_x0_5", "efficientnet_b0", "efficientnet_lite0"),
    ],
)
def test_a_training_step_has_the_gradients_of_the_twin(name: str) -> None:
    twin = twins()[name]
    theirs = create(twin).double().train()
    ours = network_of(name, twin).double().train()
    for layer in (*theirs.modules(), *ours.modules()):
        if isinstance(layer, nn.Dropout | StochasticDepth):
            layer.p = 0.0  # nothing is left to chance
    load_strict(ours, rename(theirs.state_dict()), twin.name)
    # 64-bit: with few values a channel, batch norm would make rounding errors large.
    x = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(9)).double()
    target = torch.randn(4, 1000, generator=torch.Generator().manual_seed(10)).double()
    for network in (theirs, ours):
        (network(x) * target).sum().backward()
    expected = rename({key: gradient_of(p) for key, p in theirs.named_parameters()})
    found = {key: gradient_of(p) for key, p in ours.named_parameters()}
    assert found.keys() == expected.keys()
    largest = max(g.abs().max() for g in expected.values())
    for key, gradient in found.items():
        assert (gradient - expected[key]).abs().max() <= TOLERANCE * largest, key


def gradient_of(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad
