"""Res2Net: inside a block, each group of channels sees further than the one before.

Gao, Cheng, Zhao, Zhang, Yang, Torr 2019, "Res2Net: A New Multi-scale Backbone Architecture",
arXiv:1904.01169, section 3.1 and figure 2b. A Bottleneck's 3x3 becomes s (the scale) groups: the
first s - 1 have a 3x3 each and its result is added to the next group's input, so the last of them
has seen through s - 1 of them; the last group passes unchanged. With inner width b x s of layer1 as
in the names (26w_4s: 4 groups of 26), at 224 x 224:

    part     stride  size       out    a group of 26w  48w  14w   blocks 50  101
    -------  ------  ---------  -----  --------------  ---  ---   ---------  ---
    conv1    2       112 x 112  64     7x7
    layer1   4       56 x 56    256    26              48   14    3          3
    layer2   8       28 x 28    512    52              96   28    4          4
    layer3   16      14 x 14    1024   104             192  56    6          23
    layer4   32      7 x 7      2048   208             384  112   3          3

The first block of a stage is not in the figure, but in the authors' code and weights: there the
groups are not added to one another, as their sizes differ, and the last passes through 3x3 means.

Tensor names are the authors' and timm's. Where we depart from the paper: the groups with a 3x3 are
the first ones and the last one passes (the figure has the first pass), as in the authors' code.
Stages deeper than the coarsest asked stride are not built.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.backbone import register
from models.blocks import convolution, shortcut
from models.residual import STRIDES, Depths, ResidualBackbone, resnet_stem

EXPANSION = 4


class ScaledBottleneck(nn.Module):
    """1x1, groups of channels that are filtered one after the other, 1x1 (figure 2b).

    group_width: channels of a group where width is 64.  scale: number of groups.
    """

    def __init__(
        self, in_channels: int, width: int, stride: int, *, group_width: int, scale: int
    ) -> None:
        super().__init__()
        out_channels = width * EXPANSION
        self.group = width * group_width // 64
        self.conv1 = convolution(in_channels, self.group * scale, 1)
        self.bn1 = nn.BatchNorm2d(self.group * scale)
        self.convs = nn.ModuleList(
            convolution(self.group, self.group, 3, stride=stride) for _ in range(scale - 1)
        )
        self.bns = nn.ModuleList(nn.BatchNorm2d(self.group) for _ in range(scale - 1))
        self.conv3 = convolution(self.group * scale, out_channels, 1)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(in_channels, out_channels, stride)
        self.pool = nn.AvgPool2d(3, stride, padding=1) if self.downsample is not None else None

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] -> [N, 4 width, H / stride, W / stride]."""
        *filtered, last = self.relu(self.bn1(self.conv1(x))).split(self.group, dim=1)
        parts: list[Tensor] = []
        for group, conv, norm in zip(filtered, self.convs, self.bns, strict=True):
            alone = self.pool is not None or not parts
            parts.append(self.relu(norm(conv(group if alone else group + parts[-1]))))
        parts.append(last if self.pool is None else self.pool(last))
        y = self.bn3(self.conv3(torch.cat(parts, dim=1)))
        out: Tensor = self.relu(y + (x if self.downsample is None else self.downsample(x)))
        return out


class Res2Net(ResidualBackbone):
    """The paper's network without its pooling and classifier.

    depths: blocks of layer1 to layer4.
    group_width, scale: channels of a group in layer1, and groups of a block.
    """

    def __init__(
        self, depths: Depths, group_width: int, scale: int, strides: Sequence[int] = STRIDES
    ) -> None:
        def block(in_channels: int, width: int, stride: int) -> nn.Module:
            return ScaledBottleneck(
                in_channels, width, stride, group_width=group_width, scale=scale
            )

        super().__init__(block, depths, strides, expansion=EXPANSION, stem=resnet_stem())


_PAPER = "Gao et al. 2019, arXiv:1904.01169"
_WEIGHTS = "the authors' repository, in timm (ImageNet)"
_LICENCE = "unknown (timm says so)"


@register(
    paper=_PAPER,
    input_size=(224, 224),
    parameters=23_650_120,
    multiply_adds=4_253_118_464,
    weights_origin=_WEIGHTS,
    weights_licence=_LICENCE,
)
def res2net50_26w_4s(strides: Sequence[int] = STRIDES) -> Res2Net:
    """The paper's network beside resnet50, of its cost."""
    return Res2Net((3, 4, 6, 3), 26, 4, strides)


@register(
    paper=_PAPER,
    input_size=(224, 224),
    parameters=35_002_448,
    multiply_adds=6_293_475_328,
    weights_origin=_WEIGHTS,
    weights_licence=_LICENCE,
)
def res2net50_26w_6s(strides: Sequence[int] = STRIDES) -> Res2Net:
    """6 groups of 26: half as much again."""
    return Res2Net((3, 4, 6, 3), 26, 6, strides)


@register(
    paper=_PAPER,
    input_size=(224, 224),
    parameters=46_354_776,
    multiply_adds=8_333_832_192,
    weights_origin=_WEIGHTS,
    weights_licence=_LICENCE,
)
def res2net50_26w_8s(strides: Sequence[int] = STRIDES) -> Res2Net:
    """8 groups of 26: twice the cost of resnet50."""
    return Res2Net((3, 4, 6, 3), 26, 8, strides)


@register(
    paper=_PAPER,
    input_size=(224, 224),
    parameters=23_238_304,
    multiply_adds=4_157_784_064,
    weights_origin=_WEIGHTS,
    weights_licence=_LICENCE,
)
def res2net50_48w_2s(strides: Sequence[int] = STRIDES) -> Res2Net:
    """2 groups of 48, at the cost of resnet50."""
    return Res2Net((3, 4, 6, 3), 48, 2, strides)


@register(
    paper=_PAPER,
    input_size=(224, 224),
    parameters=23_010_816,
    multiply_adds=4_176_850_944,
    weights_origin=_WEIGHTS,
    weights_licence=_LICENCE,
)
def res2net50_14w_8s(strides: Sequence[int] = STRIDES) -> Res2Net:
    """8 groups of 14, at the cost of resnet50."""
    return Res2Net((3, 4, 6, 3), 14, 8, strides)


@register(
    paper=_PAPER,
    input_size=(224, 224),
    parameters=43_157_688,
    multiply_adds=8_064_926_464,
    weights_origin=_WEIGHTS,
    weights_licence=_LICENCE,
)
def res2net101_26w_4s(strides: Sequence[int] = STRIDES) -> Res2Net:
    """The paper's network beside resnet101, of its cost."""
    return Res2Net((3, 4, 23, 3), 26, 4, strides)
