"""Blocks that more than one family uses, each once.

Tensor names inside a block are those of the first public checkpoints, so that their files load
without renaming: `conv1`, `bn1`, `downsample.0` (ResNet), `conv.0.0` (MobileNetV2).
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional

Activation = type[nn.ReLU] | type[nn.ReLU6] | type[nn.SiLU] | type[nn.Hardswish]


class SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow's SAME, for sides that are multiples of the stride.

    kernel - stride zeros an axis, the odd one at the bottom and right: with kernel 3 and stride 2
    none at the top and left. A usual padding of 1 shifts such a network by one pixel.
    """

    def forward(self, input: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C', H / stride, W / stride]."""
        pads: list[int] = []
        for kernel, stride in zip(self.kernel_size[::-1], self.stride[::-1], strict=True):
            total = max(kernel - stride, 0)
            pads += [total // 2, total - total // 2]  # F.pad wants the last axis first
        return super().forward(functional.pad(input, pads))


class MixConv2d(nn.Conv2d):
    """A 1x1 convolution over several maps, brought to the first one's size (bilinear).

    The answer is that of all maps resized, concatenated and convolved (HRNetV2, arXiv:1904.04514):
    both steps are linear, and a bilinear interpolation's weights sum to one. So each map meets its
    share of the weights at its own size, where that is a quarter of the work for each doubling of
    its stride, and only the results are resized and added.
    """

    def __init__(
        self,
        widths: Sequence[int],
        out_channels: int,
        *,
        bias: bool = False,
        align_corners: bool = False,
    ) -> None:
        super().__init__(sum(widths), out_channels, kernel_size=1, bias=bias)
        ends = accumulate(widths)
        self.shares = tuple(
            slice(end - width, end) for end, width in zip(ends, widths, strict=True)
        )
        self.align_corners = align_corners

    def forward(self, input: Sequence[Tensor]) -> Tensor:  # type: ignore[override]
        """Maps [N, widths[i], h, w] -> [N, out_channels, h, w] of the first one's size."""
        first, *others = (self.weight[:, share] for share in self.shares)
        mixed = functional.conv2d(input[0], first, self.bias)
        size = input[0].shape[2:]
        for x, weight in zip(input[1:], others, strict=True):
            mixed = mixed + functional.interpolate(
                functional.conv2d(x, weight),
                size=size,
                mode="bilinear",
                align_corners=self.align_corners,
            )
        return mixed


def convolution(
    in_channels: int,
    out_channels: int,
    kernel: int,
    *,
    stride: int = 1,
    groups: int = 1,
    bias: bool = False,
    same_padding: bool = False,
) -> nn.Conv2d:
    """A convolution that keeps the size but for its stride."""
    kind = SameConv2d if same_padding else nn.Conv2d
    padding = 0 if same_padding else kernel // 2
    return kind(in_channels, out_channels, kernel, stride, padding, groups=groups, bias=bias)


class ConvNorm(nn.Sequential):
    """Convolution (`0`), batch norm (`1`), activation.

    norm=False is the folded form: the convolution has the bias and there is no batch norm.
    bias=None: a bias only where no norm follows.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        norm: bool = True,
        bias: bool | None = None,
        activation: Activation | None = nn.ReLU,
        same_padding: bool = False,
        eps: float = 1e-5,
    ) -> None:
        conv = convolution(
            in_channels,
            out_channels,
            kernel,
            stride=stride,
            groups=groups,
            bias=not norm if bias is None else bias,
            same_padding=same_padding,
        )
        layers: list[nn.Module] = [conv]
        if norm:
            layers.append(nn.BatchNorm2d(out_channels, eps=eps))
        if activation is not None:
            layers.append(activation(inplace=True))
        super().__init__(*layers)


class ConvBn(nn.Sequential):
    """Convolution (`conv`), batch norm (`bn`), ReLU, with kernels that need not be square.

    padded=False: no zeros around the map, which then loses kernel - 1 cells before its stride.
    eps: TensorFlow's, from whose files the public weights of such layers come.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int | tuple[int, int],
        *,
        stride: int = 1,
        padded: bool = True,
        bias: bool = False,
        eps: float = 1e-3,
    ) -> None:
        height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (height // 2, width // 2) if padded else (0, 0)
        layers: dict[str, nn.Module] = {
            "conv": nn.Conv2d(
                in_channels, out_channels, (height, width), stride, padding, bias=bias
            ),
            "bn": nn.BatchNorm2d(out_channels, eps=eps),
            "relu": nn.ReLU(inplace=True),
        }
        super().__init__(OrderedDict(layers))


class Branches(nn.Module):
    """Chains of layers side by side on one map, their outputs one after the other as channels.

    chains: of each branch the layers by name, in order. A layer that several chains begin with
        runs once, for all of them.
    """

    def __init__(self, *chains: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.chains = tuple(tuple(chain) for chain in chains)
        for chain in chains:
            for name, layer in chain.items():
                self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, the branches' channels, h, w]."""
        done: dict[str, Tensor] = {}
        for chain in self.chains:
            y = x
            for name in chain:
                if name not in done:
                    done[name] = self.get_submodule(name)(y)
                y = done[name]
        return torch.cat([done[chain[-1]] for chain in self.chains], dim=1)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside an identity (He et al. 2015, arXiv:1512.03385, figure 5 left).

    pooled_shortcut: see `shortcut`.
    """

    expansion = 1

    def __init__(
        self, in_channels: int, width: int, stride: int = 1, *, pooled_shortcut: bool = False
    ) -> None:
        super().__init__()
        self.conv1 = convolution(in_channels, width, 3, stride=stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = convolution(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(
            in_channels, width * self.expansion, stride, pooled=pooled_shortcut
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] -> [N, width, H / stride, W / stride]."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        out: Tensor = self.relu(y + (x if self.downsample is None else self.downsample(x)))
        return out


class Bottleneck(nn.Module):
    """1x1 down to `width`, 3x3, 1x1 up to 4 x width (arXiv:1512.03385, figure 5 right).

    The stride is on the 3x3 convolution, as in all public checkpoints used here; the paper has it
    on the first 1x1. groups and group_width: the 3x3 has that many groups of width / 64 x
    group_width channels (ResNeXt, arXiv:1611.05431; wide ResNet, arXiv:1605.07146).
    pooled_shortcut: see `shortcut`.
    """

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int = 1,
        *,
        groups: int = 1,
        group_width: int = 64,
        pooled_shortcut: bool = False,
    ) -> None:
        super().__init__()
        out_channels = width * self.expansion
        inner = width * group_width // 64 * groups
        self.conv1 = convolution(in_channels, inner, 1)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = convolution(inner, inner, 3, stride=stride, groups=groups)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = convolution(inner, out_channels, 1)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(in_channels, out_channels, stride, pooled=pooled_shortcut)

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] -> [N, 4 width, H / stride, W / stride]."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        out: Tensor = self.relu(y + (x if self.downsample is None else self.downsample(x)))
        return out


def shortcut(
    in_channels: int, out_channels: int, stride: int, *, kernel: int = 1, pooled: bool = False
) -> nn.Sequential | None:
    """A projection where the shape changes (option B of the paper), else the identity.

    pooled: 2x2 means before it take the stride (ResNet-D, arXiv:1812.01187, figure 2c); its
    tensors are then `1` and `2`.
    """
    if stride == 1 and in_channels == out_channels:
        return None
    if pooled:
        pool = nn.Identity() if stride == 1 else nn.AvgPool2d(stride, stride)
        return nn.Sequential(pool, *ConvNorm(in_channels, out_channels, kernel, activation=None))
    return ConvNorm(in_channels, out_channels, kernel, stride=stride, activation=None)


class InvertedResidual(nn.Module):
    """1x1 up to expansion x in, depthwise 3x3, linear 1x1 down (arXiv:1801.04381, figure 4).

    The input is added where the shape stays the same. Expansion 1 has no first convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int,
        expansion: int,
        norm: bool = True,
        same_padding: bool = False,
    ) -> None:
        super().__init__()
        hidden = in_channels * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers.append(ConvNorm(in_channels, hidden, 1, norm=norm, activation=nn.ReLU6))
        layers.append(
            ConvNorm(
                hidden,
                hidden,
                3,
                stride=stride,
                groups=hidden,
                norm=norm,
                activation=nn.ReLU6,
                same_padding=same_padding,
            )
        )
        layers.extend(ConvNorm(hidden, out_channels, 1, norm=norm, activation=None))
        self.conv = nn.Sequential(*layers)
        self.adds_input = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] -> [N, out_channels, H / stride, W / stride]."""
        y: Tensor = self.conv(x)
        return x + y if self.adds_input else y


class SqueezeExcite(nn.Module):
    """A gate for each channel from the means of all channels (arXiv:1709.01507, section 3).

    squeezed: width between the two 1x1 convolutions `fc1` and `fc2`.
    """

    def __init__(
        self,
        channels: int,
        squeezed: int,
        activation: Activation = nn.ReLU,
        gate: type[nn.Sigmoid] | type[nn.Hardsigmoid] = nn.Sigmoid,
    ) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.activation = activation()
        self.gate = gate()

    def forward(self, x: Tensor) -> Tensor:
        """[N, channels, H, W] -> the same, each channel times its gate."""
        means = x.mean(dim=(2, 3), keepdim=True)
        gated: Tensor = x * self.gate(self.fc2(self.activation(self.fc1(means))))
        return gated


def shuffle(x: Tensor, groups: int) -> Tensor:
    """Channels of the groups in turn: [a1 a2 b1 b2] -> [a1 b1 a2 b2].

    x: [N, C, H, W]; groups divides C. Source: arXiv:1707.01083, figure 1c.
    """
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


def scaled_channels(channels: int, multiplier: float) -> int:
    """The multiple of 8 nearest to channels x multiplier that is not 10 % smaller than that."""
    wanted = channels * multiplier
    nearest = max(8, int(wanted + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * wanted else nearest + 8


def initialise(module: nn.Module) -> None:
    """Random weights to train from: convolutions by He et al. (arXiv:1502.01852), no biases."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
