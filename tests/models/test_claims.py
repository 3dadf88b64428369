"""The checkable claims of docs/architectures.md, each with its numbers."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from models import create_backbone
from models.blocks import BasicBlock, Bottleneck, InvertedResidual
from models.profile import profile


def cost(layer: nn.Module, channels: int, size: int = 16) -> int:
    """Multiply-adds on a map of size x size."""
    return profile(layer, (size, size), channels=channels).multiply_adds


def parameters(layer: nn.Module) -> int:
    return sum(p.numel() for p in layer.parameters())


@pytest.mark.parametrize(("channels", "kernel"), [(64, 3), (128, 3), (256, 5)])
def test_a_separable_convolution_costs_one_nth_plus_one_kernel_squareth(
    channels: int, kernel: int
) -> None:
    """MobileNet, arXiv:1704.04861, section 3.1."""
    full = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=False)
    separable = nn.Sequential(
        nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
    )
    ratio = cost(separable, channels) / cost(full, channels)
    assert ratio == pytest.approx(1 / channels + 1 / kernel**2, rel=1e-12)


def test_a_1x1_convolution_has_nine_times_fewer_parameters_than_a_3x3() -> None:
    """SqueezeNet, arXiv:1602.07360, section 3.1, strategy 1."""
    assert parameters(nn.Conv2d(64, 64, 3, bias=False)) == 9 * parameters(
        nn.Conv2d(64, 64, 1, bias=False)
    )


def test_a_bottleneck_costs_5_9_percent_of_two_full_convolutions() -> None:
    """ResNet, arXiv:1512.03385, figure 5: 256 channels through 64, against two 3x3 on 256."""
    narrow = nn.Sequential(
        nn.Conv2d(256, 64, 1, bias=False),
        nn.Conv2d(64, 64, 3, padding=1, bias=False),
        nn.Conv2d(64, 256, 1, bias=False),
    )
    wide = nn.Sequential(*(nn.Conv2d(256, 256, 3, padding=1, bias=False) for _ in range(2)))
    assert cost(narrow, 256) / cost(wide, 256) == pytest.approx(0.059, abs=5e-4)


def test_half_the_size_and_twice_the_channels_cost_the_same() -> None:
    """ResNet, section 3.3: each stage's blocks (but the first) cost alike."""
    costs = [cost(BasicBlock(64 * 2**i, 64 * 2**i), 64 * 2**i, 56 // 2**i) for i in range(4)]
    assert len(set(costs)) == 1


def test_grouped_convolutions_do_not_mix_groups_until_channels_are_shuffled() -> None:
    """ShuffleNet, arXiv:1707.01083, figure 1."""
    torch.manual_seed(0)
    groups, channels = 4, 16
    first, second = (nn.Conv2d(channels, channels, 1, groups=groups, bias=False) for _ in range(2))

    def shuffled(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)

    def reached(network: nn.Module | None) -> int:
        """How many of the other groups' outputs depend on an input of group 0."""
        x = torch.zeros(1, channels, 1, 1, requires_grad=True)
        middle = first(x)
        y = second(middle if network is None else shuffled(middle))
        seen = 0
        for channel in range(channels // groups, channels):
            (slope,) = torch.autograd.grad(y[0, channel, 0, 0], x, retain_graph=True)
            seen += bool(slope[0, : channels // groups].abs().sum() > 0)
        return seen

    assert reached(None) == 0
    assert reached(nn.Identity()) == channels - channels // groups


@pytest.mark.parametrize(("dimensions", "lossless"), [(2, False), (3, False), (30, True)])
def test_relu_destroys_a_narrow_map_and_spares_a_wide_one(dimensions: int, lossless: bool) -> None:
    """MobileNetV2, arXiv:1801.04381, figure 1: a spiral through ReLU in n dimensions and back.

    A point is lost where fewer than two of its n coordinates stay positive: two numbers cannot be
    found again from fewer.
    """
    torch.manual_seed(1)
    angle = torch.linspace(0.5, 6 * torch.pi, 500)
    spiral = torch.stack([angle * angle.cos(), angle * angle.sin()], dim=1)
    lift = torch.randn(2, dimensions)
    lifted = functional.relu(spiral @ lift)
    lost = ((lifted > 0).sum(dim=1) < 2).float().mean().item()
    assert (lost == 0) == lossless
    if not lossless:
        assert lost > 0.2


def test_resnet_goes_down_and_up_where_mobilenet_goes_up_and_down() -> None:
    """4x narrower inside (ResNet), 6x wider inside (MobileNetV2)."""
    down = Bottleneck(256, 64)
    assert (down.conv1.in_channels, down.conv1.out_channels) == (256, 64)
    up = [
        m
        for m in InvertedResidual(32, 32, stride=1, expansion=6).modules()
        if isinstance(m, nn.Conv2d)
    ]
    assert (up[0].in_channels, up[0].out_channels) == (32, 192)
    assert (up[-1].in_channels, up[-1].out_channels) == (192, 32)


def test_hrnet_keeps_stride_4_from_the_stem_to_the_end() -> None:
    """No map finer than the asked one is ever made from a coarser one alone."""
    hrnet = create_backbone("hrnet_w18_small", strides=(4,)).eval()
    sizes: list[tuple[int, int]] = []
    for name, layer in hrnet.named_modules():
        if name.endswith("branches.0") or name == "layer1":
            layer.register_forward_hook(lambda _m, _i, y: sizes.append(tuple(y.shape[2:])))
    with torch.inference_mode():
        (finest,) = hrnet(torch.zeros(1, 3, 64, 96))
    assert finest.shape[2:] == (16, 24)
    assert len(sizes) >= 4
    assert set(sizes) == {(16, 24)}
    resnet = create_backbone("resnet18").eval()
    with torch.inference_mode():
        last = resnet(torch.zeros(1, 3, 64, 96))[-1]
    assert last.shape[2:] == (2, 3)


def test_every_output_of_an_exchange_sees_every_branch() -> None:
    """HRNet, arXiv:1902.09212, equation 2: each output is a sum over all inputs."""
    hrnet = create_backbone("hrnet_w18_small").eval()
    exchange = hrnet.get_submodule("stage3.0")
    maps = [torch.randn(1, 16 * 2**i, 16 // 2**i, 16 // 2**i) for i in range(3)]
    with torch.inference_mode():
        before = exchange([m.clone() for m in maps])
        for changed in range(3):
            others = [m + (i == changed) for i, m in enumerate(maps)]
            after = exchange([m.clone() for m in others])
            assert all((a - b).abs().max() > 0 for a, b in zip(after, before, strict=True))
