"""The checkable claims of docs/architectures.md, each with its numbers."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from models import create_backbone, shufflenet
from models.backbone import facts
from models.blocks import (
    BasicBlock,
    Bottleneck,
    ConvNorm,
    InvertedResidual,
    SqueezeExcite,
    shortcut,
    shuffle,
)
from models.profile import profile
from models.res2net import ScaledBottleneck
from models.resnest import SplitAttention
from models.resnetv2 import PreActivationBlock
from models.squeezenet import Fire


def cost(layer: nn.Module, channels: int, size: int = 16) -> int:
    """Multiply-adds on a map of size x size."""
    return profile(layer, (size, size), channels=channels).multiply_adds


def parameters(layer: nn.Module) -> int:
    return sum(p.numel() for p in layer.parameters())


def convolutions(module: nn.Module) -> list[nn.Conv2d]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]


def influence(layer: nn.Module, x: Tensor) -> Tensor:
    """[H, W]: whether a cell of x changes the middle cell of the output, in any channel."""
    x = x.clone().requires_grad_()
    y = layer(x)
    y[0, :, y.shape[2] // 2, y.shape[3] // 2].square().sum().backward()
    assert x.grad is not None
    return x.grad[0].abs().sum(dim=0) > 0


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

    def reached(*, shuffled: bool) -> int:
        """How many of the other groups' outputs depend on an input of group 0."""
        x = torch.zeros(1, channels, 1, 1, requires_grad=True)
        y = second(shuffle(first(x), groups) if shuffled else first(x))
        seen = 0
        for channel in range(channels // groups, channels):
            (slope,) = torch.autograd.grad(y[0, channel, 0, 0], x, retain_graph=True)
            seen += bool(slope[0, : channels // groups].abs().sum() > 0)
        return seen

    assert reached(shuffled=False) == 0
    assert reached(shuffled=True) == channels - channels // groups


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


@pytest.mark.parametrize("dimensions", [2, 3, 30])
def test_a_linear_bottleneck_gives_the_spiral_back(dimensions: int) -> None:
    """The same spiral without the ReLU: nothing is lost in any number of dimensions."""
    torch.manual_seed(1)
    angle = torch.linspace(0.5, 6 * torch.pi, 500, dtype=torch.float64)
    spiral = torch.stack([angle * angle.cos(), angle * angle.sin()], dim=1)
    lift = torch.randn(2, dimensions, dtype=torch.float64)
    back = torch.linalg.pinv(lift)
    torch.testing.assert_close(spiral @ lift @ back, spiral, rtol=0, atol=1e-10)
    if dimensions < 30:
        flattened = functional.relu(spiral @ lift) @ back
        assert (flattened - spiral).norm(dim=1).max() > spiral.norm(dim=1).max() / 3


def test_narrow_maps_of_inverted_residuals_have_no_activation() -> None:
    """MobileNetV2, section 3.2: what a block gives has both signs, what is inside has not."""
    torch.manual_seed(0)
    block = InvertedResidual(16, 24, stride=1, expansion=6)
    assert isinstance(block.conv[-1], nn.BatchNorm2d)
    x = torch.randn(2, 16, 8, 8)
    assert (block(x) < 0).float().mean() > 0.3
    assert block.conv[:2](x).min() == 0


def test_resnet_goes_down_and_up_where_mobilenet_goes_up_and_down() -> None:
    """4x narrower inside (ResNet), 6x wider inside (MobileNetV2)."""

    def widths(block: nn.Module) -> list[int]:
        layers = convolutions(block)
        return [layers[0].in_channels, *(layer.out_channels for layer in layers)]

    assert widths(Bottleneck(256, 64)) == [256, 64, 64, 256]
    assert widths(InvertedResidual(32, 32, stride=1, expansion=6)) == [32, 192, 192, 32]


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


def test_a_pooled_shortcut_sees_every_cell_and_a_strided_one_a_quarter() -> None:
    """ResNet-D, arXiv:1812.01187, section 4.2."""
    shares = []
    for pooled in (False, True):
        projection = shortcut(8, 16, 2, pooled=pooled)
        assert projection is not None
        x = torch.randn(1, 8, 8, 8, requires_grad=True)
        projection.eval()(x).square().sum().backward()
        assert x.grad is not None
        shares.append((x.grad.abs().sum(dim=1) > 0).float().mean().item())
    assert shares == [0.25, 1.0]


def test_only_a_pre_activation_block_passes_its_input_untouched() -> None:
    """ResNet v2, arXiv:1603.05027: with nothing to add, negative values pass too."""
    x = torch.randn(1, 64, 4, 4)
    outputs = []
    for block in (PreActivationBlock(64, 16, 64, 1, (1, 3, 1)), Bottleneck(64, 16)):
        for layer in convolutions(block):
            nn.init.zeros_(layer.weight)
        with torch.inference_mode():
            outputs.append(block.eval()(x))
    assert torch.equal(outputs[0], x)
    assert torch.equal(outputs[1], x.clamp(min=0))


def test_32_paths_of_4_channels_cost_what_one_of_64_costs() -> None:
    """ResNeXt, arXiv:1611.05431, section 3.3: about 70 thousand weights in either block."""
    plain, grouped = Bottleneck(256, 64), Bottleneck(256, 64, groups=32, group_width=4)
    weights = [sum(layer.weight.numel() for layer in convolutions(b)) for b in (plain, grouped)]
    assert weights == [69_632, 70_144]


def test_the_groups_of_a_res2net_block_see_3_5_and_7_cells() -> None:
    """Res2Net, arXiv:1904.01169, section 3.1: the last group passes and sees one."""
    torch.manual_seed(0)
    block = ScaledBottleneck(32, 8, 1, group_width=64, scale=4).eval()
    fields = []
    for group in range(4):
        nn.init.zeros_(block.conv3.weight)
        nn.init.ones_(block.conv3.weight[:, 8 * group : 8 * group + 8])
        seen = influence(block, torch.rand(1, 32, 15, 15))
        fields.append((int(seen.any(dim=1).sum()), int(seen.any(dim=0).sum())))
    assert fields == [(3, 3), (5, 5), (7, 7), (1, 1)]


def test_split_attention_stays_between_its_splits() -> None:
    """ResNeSt, arXiv:2004.08955, equation 4: weights of a channel are positive and sum to one."""
    torch.manual_seed(0)
    attention = SplitAttention(16, radix=2, groups=1).eval()
    splits: list[Tensor] = []
    attention.bn0.register_forward_hook(lambda _m, _i, y: splits.append(y.clone().relu()))
    with torch.inference_mode():
        y = attention(torch.randn(1, 16, 6, 6))
    first, second = splits[0].chunk(2, dim=1)
    assert (y >= torch.minimum(first, second) - 1e-6).all()
    assert (y <= torch.maximum(first, second) + 1e-6).all()
    assert (y - (first + second) / 2).abs().max() > 1e-3  # not simply the mean of both


def test_gates_are_between_0_and_1_and_depend_on_the_whole_map() -> None:
    """SENet, arXiv:1709.01507, section 3."""
    torch.manual_seed(0)
    gated = SqueezeExcite(8, 4, activation=nn.SiLU)  # whose slope is nowhere zero for long
    gates: list[Tensor] = []
    gated.gate.register_forward_hook(lambda _m, _i, y: gates.append(y))
    x = torch.randn(1, 8, 7, 7)
    y = gated(x)
    assert gates[0].shape == (1, 8, 1, 1)
    assert gates[0].min() > 0
    assert gates[0].max() < 1
    assert torch.equal(y, x * gates[0])
    assert influence(gated, x).all()
    assert influence(nn.Conv2d(8, 8, 3, padding=1), x).sum() == 9


def test_gates_of_a_network_cost_next_to_nothing() -> None:
    """SENet, section 4: a tenth of the parameters, and 0.07 % of the multiply-adds."""
    with torch.device("meta"):
        measured = profile(create_backbone("se_resnet50"), (224, 224))
    gates = [layer for layer in measured.layers if ".se_module." in layer.name]
    assert sum(g.multiply_adds for g in gates) / measured.multiply_adds < 0.0007
    assert sum(g.parameters for g in gates) / measured.parameters == pytest.approx(0.097, abs=1e-3)


def test_a_fire_has_a_twelfth_of_the_parameters_of_a_3x3_of_its_width() -> None:
    """SqueezeNet, table 1: fire3 against 128 filters of 3x3 on the same 128 channels."""
    full = nn.Conv2d(128, 128, 3)
    assert parameters(full) / parameters(Fire(128, 16, 64)) == pytest.approx(11.87, abs=0.01)


def test_h_swish_is_swish_to_within_a_seventh() -> None:
    """MobileNetV3, arXiv:1905.02244, section 5.2: they differ most at -3 and 3."""
    x = torch.linspace(-10, 10, 2001, dtype=torch.float64)
    assert torch.allclose(functional.hardswish(x), x * functional.relu6(x + 3) / 6)
    assert (functional.hardswish(x) - functional.silu(x)).abs().max() == pytest.approx(
        0.1423, abs=1e-4
    )


def test_gates_of_mobilenet_v3_are_computed_from_a_quarter_of_the_wide_map() -> None:
    """Section 5.3; a multiple of 8 near it."""
    with torch.device("meta"):
        gates = [
            (layer.fc1.in_channels, layer.fc1.out_channels)
            for layer in create_backbone("mobilenet_v3_large").modules()
            if isinstance(layer, SqueezeExcite)
        ]
    assert gates[:3] == [(72, 24), (120, 32), (120, 32)]
    assert gates[3:] == [(480, 120), (672, 168), (672, 168), (960, 240), (960, 240)]


def test_equal_widths_in_and_out_move_the_least_memory() -> None:
    """ShuffleNetV2, arXiv:1807.11164, section 2, G1: 1x1 convolutions of equal cost."""
    pairs = [(128, 128), (64, 256), (32, 512), (16, 1024)]
    measured = [profile(nn.Conv2d(c, d, 1, bias=False), (28, 28), channels=c) for c, d in pairs]
    moved = [p.bytes_read + p.bytes_written for p in measured]
    assert len({p.multiply_adds for p in measured}) == 1
    assert moved == [4 * (28 * 28 * (c + d) + c * d) for c, d in pairs]
    assert [round(bytes_ / moved[0], 1) for bytes_ in moved] == [1.0, 1.2, 2.0, 3.8]


def test_convolutions_of_a_shufflenet_v2_unit_keep_their_width_and_are_not_grouped() -> None:
    """Guidelines G1 and G2: depthwise layers apart, which filter each channel alone."""
    layers = convolutions(shufflenet.Unit(116, 116, 1))
    assert [(c.in_channels, c.out_channels) for c in layers] == [(58, 58)] * 3
    assert [c.groups for c in layers] == [1, 58, 1]


def test_compound_scaling_doubles_the_cost_with_each_step() -> None:
    """EfficientNet, arXiv:1905.11946, section 3.3: 1.2 deeper, 1.1 wider, 1.15 finer."""
    depth, width, resolution = 1.2, 1.1, 1.15
    assert depth * width**2 * resolution**2 == pytest.approx(1.92, abs=5e-3)  # about 2

    def grown(layers: int, channels: int, size: int) -> int:
        stack = nn.Sequential(*(ConvNorm(channels, channels, 3) for _ in range(layers)))
        return cost(stack, channels, size)

    once = grown(10, 20, 20)
    assert grown(12, 20, 20) == pytest.approx(depth * once)
    assert grown(10, 22, 20) == pytest.approx(width**2 * once)
    assert grown(10, 20, 23) == pytest.approx(resolution**2 * once)
    costs = [facts(f"efficientnet_b{phi}").multiply_adds for phi in range(8)]
    assert (costs[7] / costs[0]) ** (1 / 7) == pytest.approx(1.94, abs=5e-3)
