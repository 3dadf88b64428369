"""Padding, folding and shortcuts of the shared blocks."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.blocks import (
    BasicBlock,
    Bottleneck,
    ConvNorm,
    InvertedResidual,
    MixConv2d,
    SameConv2d,
)
from models.profile import multiply_adds


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("kernel", "stride", "left", "right"),
    [(3, 1, 1, 1), (3, 2, 0, 1), (5, 1, 2, 2), (5, 2, 1, 2), (1, 1, 0, 0), (1, 2, 0, 0)],
)
def test_same_padding_puts_the_odd_zero_right_and_bottom(
    kernel: int, stride: int, left: int, right: int
) -> None:
    conv = SameConv2d(2, 3, kernel, stride)
    x = noise(1, 2, 8, 12)
    padded = functional.pad(x, (left, right, left, right))
    expected = functional.conv2d(padded, conv.weight, conv.bias, stride)
    torch.testing.assert_close(conv(x), expected)
    assert expected.shape[2:] == (8 // stride, 12 // stride)


def test_same_padding_pads_each_axis_by_its_own_kernel() -> None:
    conv = SameConv2d(1, 1, (1, 3), (1, 2))
    x = noise(1, 1, 4, 4)
    expected = functional.conv2d(functional.pad(x, (0, 1, 0, 0)), conv.weight, conv.bias, (1, 2))
    torch.testing.assert_close(conv(x), expected)


def test_same_padding_differs_from_the_usual_one_at_stride_2() -> None:
    torch.manual_seed(0)
    usual = ConvNorm(3, 4, 3, stride=2).eval()
    same = ConvNorm(3, 4, 3, stride=2, same_padding=True).eval()
    same.load_state_dict(usual.state_dict())
    x = noise(1, 3, 8, 8)
    assert not torch.allclose(usual(x), same(x), atol=1e-2)


def test_a_folded_convolution_has_a_bias_and_no_norm() -> None:
    folded = ConvNorm(3, 4, 3, norm=False)
    assert list(folded.state_dict()) == ["0.weight", "0.bias"]
    assert list(ConvNorm(3, 4, 3).state_dict())[:2] == ["0.weight", "1.weight"]


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_a_block_of_zeros_is_the_identity(block: type[BasicBlock] | type[Bottleneck]) -> None:
    channels = 8 * block.expansion
    same = block(channels, 8).eval()
    for layer in same.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.zeros_(layer.weight)
    x = noise(1, channels, 4, 4).relu()
    torch.testing.assert_close(same(x), x)


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_a_block_projects_its_shortcut_where_the_shape_changes(
    block: type[BasicBlock] | type[Bottleneck],
) -> None:
    assert block(8 * block.expansion, 8).downsample is None
    assert block(16 * block.expansion, 8).downsample is not None
    halving = block(8 * block.expansion, 8, stride=2)
    assert halving.downsample is not None
    assert halving(noise(1, 8 * block.expansion, 8, 8)).shape == (1, 8 * block.expansion, 4, 4)


@pytest.mark.parametrize(
    ("out_channels", "stride", "adds"), [(8, 1, True), (16, 1, False), (8, 2, False)]
)
def test_an_inverted_residual_adds_its_input_where_the_shape_stays(
    out_channels: int, stride: int, adds: bool
) -> None:
    block = InvertedResidual(8, out_channels, stride=stride, expansion=6).eval()
    for layer in block.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.zeros_(layer.weight)
    x = noise(1, 8, 4, 4)
    assert torch.equal(block(x), x) is adds


def test_expansion_1_has_no_first_convolution() -> None:
    names = {
        name.rsplit(".", 1)[0]
        for name in InvertedResidual(8, 8, stride=1, expansion=1, norm=False).state_dict()
    }
    assert names == {"conv.0.0", "conv.1"}


@pytest.mark.parametrize("align_corners", [False, True])
def test_maps_mixed_at_their_own_sizes_are_maps_resized_concatenated_and_mixed(
    align_corners: bool,
) -> None:
    widths = (3, 5, 2)
    maps = [noise(2, c, 16 >> i, 24 >> i) for i, c in enumerate(widths)]
    mix = MixConv2d(widths, 4, bias=True, align_corners=align_corners)
    larger = [maps[0]] + [
        functional.interpolate(x, size=(16, 24), mode="bilinear", align_corners=align_corners)
        for x in maps[1:]
    ]
    expected = functional.conv2d(torch.cat(larger, dim=1), mix.weight, mix.bias)
    torch.testing.assert_close(mix(maps), expected)


def test_a_mixed_map_costs_each_map_its_share_at_its_own_size() -> None:
    mix = MixConv2d((3, 5), 4)
    maps = [torch.zeros(1, 3, 8, 8), torch.zeros(1, 5, 4, 4)]
    assert multiply_adds(mix, maps, mix(maps)) == 4 * (3 * 64 + 5 * 16)
