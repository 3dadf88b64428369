"""The counter of parameters and multiply-adds on layers small enough to count by hand."""

import pytest
import torch
from torch import Tensor, nn

from models import create_backbone
from models.errors import ShapeError
from models.profile import LayerProfile, profile


@pytest.mark.parametrize(
    ("layer", "multiply_adds"),
    [
        (nn.Conv2d(3, 4, 3, padding=1), 8 * 6 * 4 * 3 * 9),
        (nn.Conv2d(3, 4, 3, stride=2, padding=1), 4 * 3 * 4 * 3 * 9),
        (nn.Conv2d(3, 6, 3, padding=1, groups=3), 8 * 6 * 6 * 9),
        (nn.ConvTranspose2d(3, 5, 4, stride=2, padding=1), 8 * 6 * 3 * 5 * 16),
        (nn.Linear(6, 7), 3 * 8 * 6 * 7),
        (nn.BatchNorm2d(3), 0),
    ],
)
def test_a_layer_counts_each_weight_that_meets_a_value(
    layer: nn.Module, multiply_adds: int
) -> None:
    measured = profile(layer, (8, 6))
    assert measured.multiply_adds == multiply_adds
    assert measured.parameters == sum(p.numel() for p in layer.parameters())


def test_rows_stand_in_the_order_of_the_calls() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.ReLU(), nn.Conv2d(4, 2, 1))
    measured = profile(network, (2, 2))
    assert measured.layers == (
        LayerProfile("0", "Conv2d", (1, 4, 2, 2), 12, 48, 4 * (12 + 12), 4 * 16),
        LayerProfile("1", "ReLU", (1, 4, 2, 2), 0, 0, 4 * 16, 4 * 16),
        LayerProfile("2", "Conv2d", (1, 2, 2, 2), 10, 32, 4 * (16 + 10), 4 * 8),
    )
    assert measured.output_shapes == ((1, 2, 2, 2),)


class Twice(nn.Module):
    """Calls one layer twice and answers with a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1, bias=False)
        self.scale = nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> dict[str, Tensor | list[Tensor]]:
        """Three tensors, nested."""
        y = self.layer(x)
        return {"once": y, "twice": [self.layer(y) * self.scale.sum(), y]}


def test_a_layer_called_twice_counts_its_work_twice_and_its_parameters_once() -> None:
    measured = profile(Twice(), (2, 2))
    assert [(row.parameters, row.multiply_adds) for row in measured.layers] == [(9, 36), (0, 36)]
    assert measured.multiply_adds == 72
    assert measured.parameters == 11
    assert measured.output_shapes == ((1, 3, 2, 2),) * 3


@pytest.mark.parametrize(
    ("inplace", "peak"),
    [
        (False, 12 + 16 + 16),  # the input, which its caller holds, and both sides of the ReLU
        (True, 12 + 16 + 8),  # the ReLU writes where it read
    ],
)
def test_the_peak_is_what_is_held_at_once(inplace: bool, peak: int) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(inplace=inplace), nn.Conv2d(4, 2, 1))
    assert profile(network, (2, 2)).peak_activation_bytes == 4 * peak


class Branches(nn.Module):
    """Work between layers: views, a sum, a concatenation."""

    def forward(self, x: Tensor) -> Tensor:
        """Two values for each of x."""
        half = x[:, :, :1]  # no number moves
        return torch.cat([x + x, half.expand_as(x)], dim=1)


def test_operations_between_layers_move_memory_and_views_do_not() -> None:
    measured = profile(Branches(), (2, 2))
    assert measured.bytes_read == 4 * (12 + 12 + 12 + 12)
    assert measured.bytes_written == 4 * (12 + 24)


def test_measuring_leaves_the_network_as_it_was() -> None:
    network = create_backbone("hrnet_w18_small", strides=(4,)).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    rows = profile(network, (64, 64)).layers
    assert sum(row.parameters for row in rows) == sum(p.numel() for p in network.parameters())
    assert network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(not module._forward_hooks for module in network.modules())
    assert all(parameter.device.type == "cpu" for parameter in network.parameters())


def test_an_empty_input_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"\(height, width\) in pixels, got \(0, 32\)"):
        profile(nn.Conv2d(3, 4, 3), (0, 32))
