"""ResNeSt: a block computes its features twice and lets each channel choose between them.

Zhang, Wu, Zhang, Zhu, Lin, Zhang, Sun, He, Mueller, Manmatha, Li, Smola 2020, "ResNeSt:
Split-Attention Networks", arXiv:2004.08955, section 3. The 3x3 of a Bottleneck gives r (the radix)
splits of its output. Their sum, averaged over the image, goes through a small network of two layers
to a weight for each channel of each split, softmax over the splits; the output is the weighted sum
(figure 2). With the names XsYxZd: X splits, Y cardinal groups (ResNeXt's), of Z channels in layer1;
2s1x64d where a name has none. At 224 x 224:

    part     stride  size       out    14d  26d  50d  101e  200e  269e
    -------  ------  ---------  -----  ---  ---  ---  ----  ----  ----
    conv1    2       112 x 112  64     3x3, 3x3, 3x3; out is 128 for "e"
    layer1   4       56 x 56    256    1    2    3    3     3     3     (after 3x3 max pooling)
    layer2   8       28 x 28    512    1    2    4    4     24    30
    layer3   16      14 x 14    1024   1    2    6    23    36    48
    layer4   32      7 x 7      2048   1    2    3    3     3     8

The details of section 4.1 (network tweaks) are here too: the stride of a block is in 3x3 means
behind its 3x3 (1s4x24d and 4s2x40d: before it), that of its shortcut in 2x2 means.

Tensor names are the authors' and timm's. Where we depart from the paper: the regularisation of its
training (DropBlock, dropout before the classifier) is not built. Stages deeper than the coarsest
asked stride are not built. The batch norm of a block's weights sees one number a channel and image:
training needs batches of two or more.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from models.backbone import register
from models.blocks import convolution, shortcut
from models.residual import STRIDES, Depths, ResidualBackbone, deep_stem

EXPANSION = 4
SQUEEZED = 32  # the least width between the two layers that weigh the splits


class SplitAttention(nn.Module):
    """3x3 to `radix` splits and their sum, weighted for each channel (figure 2 and equation 3).

    radix 1 has a gate for each channel instead of the choice.
    """

    def __init__(self, channels: int, *, radix: int, groups: int) -> None:
        super().__init__()
        squeezed = max(SQUEEZED, channels * radix // 4)
        self.radix = radix
        self.groups = groups
        self.conv = convolution(channels, channels * radix, 3, groups=groups * radix)
        self.bn0 = nn.BatchNorm2d(channels * radix)
        self.relu = nn.ReLU(inplace=True)
        self.fc1 = convolution(channels, squeezed, 1, groups=groups, bias=True)
        self.bn1 = nn.BatchNorm2d(squeezed)
        self.fc2 = convolution(squeezed, channels * radix, 1, groups=groups, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """[N, channels, H, W] -> the same."""
        splits = self.relu(self.bn0(self.conv(x))).unflatten(1, (self.radix, -1))
        means = splits.sum(dim=1).mean(dim=(2, 3), keepdim=True)
        weights = self.fc2(self.relu(self.bn1(self.fc1(means))))
        if self.radix == 1:
            gates = weights.sigmoid().unsqueeze(1)
        else:  # fc2 has the splits within the cardinal groups, conv the groups within the splits
            grouped = weights.unflatten(1, (self.groups, self.radix, -1))
            gates = grouped.softmax(dim=2).transpose(1, 2).flatten(2, 3)
        weighted: Tensor = (splits * gates).sum(dim=1)
        return weighted


class SplitAttentionBottleneck(nn.Module):
    """1x1, split attention, 1x1 beside a shortcut.

    group_width: channels of a cardinal group where width is 64.
    pool_first: the means that take the stride are before the 3x3.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int,
        *,
        radix: int,
        groups: int,
        group_width: int,
        pool_first: bool,
    ) -> None:
        super().__init__()
        out_channels = width * EXPANSION
        inner = width * group_width // 64 * groups
        self.conv1 = convolution(in_channels, inner, 1)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = SplitAttention(inner, radix=radix, groups=groups)
        self.conv3 = convolution(inner, out_channels, 1)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(in_channels, out_channels, stride, pooled=True)
        self.pool = nn.AvgPool2d(3, stride, padding=1) if stride > 1 else None
        self.pool_first = pool_first

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] -> [N, 4 width, H / stride, W / stride]."""
        y = self.relu(self.bn1(self.conv1(x)))
        if self.pool is None:
            y = self.conv2(y)
        elif self.pool_first:
            y = self.conv2(self.pool(y))
        else:
            y = self.pool(self.conv2(y))
        y = self.bn3(self.conv3(y))
        out: Tensor = self.relu(y + (x if self.downsample is None else self.downsample(x)))
        return out


class ResNeSt(ResidualBackbone):
    """The paper's network without its pooling and classifier.

    depths: blocks of layer1 to layer4.
    stem_width: of the first two convolutions; the third has twice that.
    radix, groups, group_width: splits, cardinal groups, and channels of one in layer1.
    """

    def __init__(
        self,
        depths: Depths,
        strides: Sequence[int],
        *,
        stem_width: int = 32,
        radix: int = 2,
        groups: int = 1,
        group_width: int = 64,
        pool_first: bool = False,
    ) -> None:
        def block(in_channels: int, width: int, stride: int) -> nn.Module:
            return SplitAttentionBottleneck(
                in_channels,
                width,
                stride,
                radix=radix,
                groups=groups,
                group_width=group_width,
                pool_first=pool_first,
            )

        super().__init__(
            block,
            depths,
            strides,
            expansion=EXPANSION,
            stem=deep_stem(stem_width),
            stem_channels=2 * stem_width,
        )


_PAPER = "Zhang et al. 2020, arXiv:2004.08955"
_AUTHORS = "the authors' repository, in timm (ImageNet)"
_GLUON = "GluonCV, in timm (ImageNet)"
_LICENCE = "Apache-2.0"


@register(
    paper=_PAPER,
    input_size=(224, 224),
    parameters=8_562_688,
    multiply_adds=2_747_357_184,
    weights_origin=_GLUON,
    weights_licence=_LICENCE,
)
def resnest14d(strides: Sequence[int] = STRIDES) -> ResNeSt:
    """One block a stage."""
    return ResNeSt((1, 1, 1, 1), strides)


@register(
    paper=_PAPER,
    input_size=(224, 224),
    parameters=15_020_448,
    multiply_adds=3_621_343_232,
    weights_origin=_GLUON,
    weights_licence=_LICENCE,
)
def resnest26d(strides: Sequence[int] = STRIDES) -> ResNeSt:
    """Two blocks a stage."""
    return ResNeSt((2, 2, 2, 2), strides)


@register(
    paper=_PAPER,
    input_size=(224, 224),
    parameters=25_434_240,
    multiply_adds=5_369_112_576,
    weights_origin=_AUTHORS,
    weights_licence=_LICENCE,
)
def resnest50d(strides: Sequence[int] = STRIDES) -> ResNeSt:
    """The paper's ResNeSt-50."""
    return ResNeSt((3, 4, 6, 3), strides)


@register(
    paper=_PAPER,
    input_size=(256, 256),
    parameters=46_226_016,
    multiply_adds=13_319_424_000,
    weights_origin=_AUTHORS,
    weights_licence=_LICENCE,
)
def resnest101e(strides: Sequence[int] = STRIDES) -> ResNeSt:
    """The paper's ResNeSt-101."""
    return ResNeSt((3, 4, 23, 3), strides, stem_width=64)


@register(
    paper=_PAPER,
    input_size=(320, 320),
    parameters=68_152_544,
    multiply_adds=35_517_646_848,
    weights_origin=_AUTHORS,
    weights_licence=_LICENCE,
)
def resnest200e(strides: Sequence[int] = STRIDES) -> ResNeSt:
    """The paper's ResNeSt-200."""
    return ResNeSt((3, 24, 36, 3), strides, stem_width=64)


@register(
    paper=_PAPER,
    input_size=(416, 416),
    parameters=108_880_480,
    multiply_adds=77_346_654_208,
    weights_origin=_AUTHORS,
    weights_licence=_LICENCE,
)
def resnest269e(strides: Sequence[int] = STRIDES) -> ResNeSt:
    """The paper's ResNeSt-269."""
    return ResNeSt((3, 30, 48, 8), strides, stem_width=64)


@register(
    paper=_PAPER,
    input_size=(224, 224),
    parameters=23_628_000,
    multiply_adds=4_397_779_456,
    weights_origin=_AUTHORS,
    weights_licence=_LICENCE,
)
def resnest50d_1s4x24d(strides: Sequence[int] = STRIDES) -> ResNeSt:
    """Four cardinal groups of 24 channels, one split of them: gates instead of a choice."""
    return ResNeSt((3, 4, 6, 3), strides, radix=1, groups=4, group_width=24, pool_first=True)


@register(
    paper=_PAPER,
    input_size=(224, 224),
    parameters=28_368_592,
    multiply_adds=4_367_012_736,
    weights_origin=_AUTHORS,
    weights_licence=_LICENCE,
)
def resnest50d_4s2x40d(strides: Sequence[int] = STRIDES) -> ResNeSt:
    """Two cardinal groups of 40 channels, four splits of them."""
    return ResNeSt((3, 4, 6, 3), strides, radix=4, groups=2, group_width=40, pool_first=True)
