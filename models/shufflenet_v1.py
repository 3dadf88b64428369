"""ShuffleNet: 1x1 convolutions in groups, and a shuffle so that the groups still meet.

Zhang, Zhou, Lin, Sun 2017, "ShuffleNet: An Extremely Efficient Convolutional Neural Network for
Mobile Devices", arXiv:1707.01083, sections 3.1 to 3.3 and table 1. In a small network most of the
cost is in the 1x1 convolutions; in g groups they cost a g-th, but then no group ever learns of
another. Dealing the channels of each group out to all groups between two such convolutions costs
nothing and mixes them, and what is saved buys wider maps. At 224 x 224:

    part     what              channels g=1  g=2  g=3  g=4   g=8   blocks  output stride  size
    -------  ----------------  ------------  ---  ---  ----  ----  ------  -------------  ---------
    conv1    3x3, stride 2     24            24   24   24    24    1       2              112 x 112
    maxpool  3x3, stride 2     24            24   24   24    24    1       4              56 x 56
    stage2   units             144           200  240  272   384   4       8              28 x 28
    stage3   units             288           400  480  544   768   8       16             14 x 14
    stage4   units             576           800  960  1088  1536  4       32             7 x 7

Tensor names are our own; `weights` renames those of pytorchcv. Where the paper leaves room we do as
pytorchcv: a unit of stride 2 puts its worked channels before the pooled ones, and its pooling
counts the zeros at the border. A width multiplier scales the stem too, and rounds to channels that
the groups divide.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.backbone import Backbone, FeatureSpec, register
from models.blocks import ConvNorm, convolution, initialise, shuffle
from models.errors import SpecError

STRIDES = (4, 8, 16, 32)
STEM_CHANNELS = 24
BOTTLENECK = 4  # section 3.2: a unit works on a quarter of its output channels
CHANNELS = {1: 144, 2: 200, 3: 240, 4: 272, 8: 384}  # table 1: groups -> channels of stage 2
BLOCKS = {8: 4, 16: 8, 32: 4}  # output stride -> units of stages 2, 3, 4
STAGES = {8: "stage2", 16: "stage3", 32: "stage4"}


class Unit(nn.Module):
    """Grouped 1x1, shuffle, depthwise 3x3, grouped 1x1, beside the input (figure 2b, 2c).

    With stride 2 the input is pooled and joined as further channels instead of added.
    first_groups: of the first 1x1; 1 in stage 2, whose input is narrow (section 3.3).
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, groups: int, first_groups: int
    ) -> None:
        super().__init__()
        middle = out_channels // BOTTLENECK
        worked = out_channels if stride == 1 else out_channels - in_channels
        self.groups = groups
        self.conv1 = convolution(in_channels, middle, 1, groups=first_groups)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = convolution(middle, middle, 3, stride=stride, groups=middle)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = convolution(middle, worked, 1, groups=groups)
        self.bn3 = nn.BatchNorm2d(worked)
        self.relu = nn.ReLU(inplace=True)
        self.pool = None if stride == 1 else nn.AvgPool2d(3, stride=stride, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] -> [N, out_channels, H / stride, W / stride]."""
        y = shuffle(self.relu(self.bn1(self.conv1(x))), self.groups)
        y = self.bn3(self.conv3(self.bn2(self.conv2(y))))
        y = y + x if self.pool is None else torch.cat([y, self.pool(x)], dim=1)
        out: Tensor = self.relu(y)
        return out


class ShuffleNetV1(Backbone):
    """Table 1 of the paper without pooling and classifier; groups picks the column."""

    def __init__(self, groups: int, *, strides: Sequence[int], width_multiplier: float) -> None:
        if not width_multiplier > 0:
            raise SpecError(f"width_multiplier must be positive, got {width_multiplier}")
        # Multiples of the groups: up for the stem, to the nearest for stage 2, then doubled.
        stem = -int(-STEM_CHANNELS * width_multiplier // groups) * groups
        unit = BOTTLENECK * groups
        second = max(1, round(CHANNELS[groups] * width_multiplier / unit)) * unit
        widths = {4: stem, 8: second, 16: 2 * second, 32: 4 * second}
        coarsest = max(strides)
        super().__init__(
            specs=[FeatureSpec(stride, widths[stride]) for stride in strides],
            unbuilt=[f"{name}." for stride, name in STAGES.items() if stride > coarsest],
        )
        self.asked = tuple(strides)
        self.conv1 = ConvNorm(3, stem, 3, stride=2)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        for stride, name in STAGES.items():
            if stride <= coarsest:
                before, width = widths[stride // 2], widths[stride]
                first_groups = 1 if stride == 8 else groups
                units = [Unit(before, width, 2, groups, first_groups)]
                units += [Unit(width, width, 1, groups, groups) for _ in range(BLOCKS[stride] - 1)]
                self.add_module(name, nn.Sequential(*units))
        initialise(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        """[N, 3, H, W] -> the asked maps, finest first."""
        self.check_input(x)
        x = self.maxpool(self.conv1(x))
        maps = {4: x}
        for stride, name in STAGES.items():
            if stride <= max(self.asked):
                x = self.get_submodule(name)(x)
                maps[stride] = x
        return [maps[stride] for stride in self.asked]


_PAPER = "Zhang et al. 2017, arXiv:1707.01083"
_ORIGIN = "pytorchcv (ImageNet)"


@register(
    paper=_PAPER,
    input_size=(224, 224),
    parameters=954_936,
    multiply_adds=142_502_976,
    weights_origin=_ORIGIN,
    weights_licence="MIT",
)
def shufflenet_v1_g1(
    strides: Sequence[int] = STRIDES, *, width_multiplier: float = 1.0
) -> ShuffleNetV1:
    """One group: a plain 1x1; channels 144, 288, 576."""
    return ShuffleNetV1(1, strides=strides, width_multiplier=width_multiplier)


@register(
    paper=_PAPER,
    input_size=(224, 224),
    parameters=932_848,
    multiply_adds=140_036_512,
    weights_origin=_ORIGIN,
    weights_licence="MIT",
)
def shufflenet_v1_g2(
    strides: Sequence[int] = STRIDES, *, width_multiplier: float = 1.0
) -> ShuffleNetV1:
    """2 groups; channels 200, 400, 800."""
    return ShuffleNetV1(2, strides=strides, width_multiplier=width_multiplier)


@register(
    paper=_PAPER,
    input_size=(224, 224),
    parameters=904_728,
    multiply_adds=136_500_672,
    weights_origin=_ORIGIN,
    weights_licence="MIT",
)
def shufflenet_v1_g3(
    strides: Sequence[int] = STRIDES, *, width_multiplier: float = 1.0
) -> ShuffleNetV1:
    """3 groups; channels 240, 480, 960."""
    return ShuffleNetV1(3, strides=strides, width_multiplier=width_multiplier)


@register(
    paper=_PAPER,
    input_size=(224, 224),
    parameters=879_344,
    multiply_adds=133_251_776,
    weights_origin=_ORIGIN,
    weights_licence="MIT",
)
def shufflenet_v1_g4(
    strides: Sequence[int] = STRIDES, *, width_multiplier: float = 1.0
) -> ShuffleNetV1:
    """4 groups; channels 272, 544, 1088."""
    return ShuffleNetV1(4, strides=strides, width_multiplier=width_multiplier)


@register(
    paper=_PAPER,
    input_size=(224, 224),
    parameters=897_768,
    multiply_adds=136_829_952,
    weights_origin=_ORIGIN,
    weights_licence="MIT",
)
def shufflenet_v1_g8(
    strides: Sequence[int] = STRIDES, *, width_multiplier: float = 1.0
) -> ShuffleNetV1:
    """8 groups; channels 384, 768, 1536."""
    return ShuffleNetV1(8, strides=strides, width_multiplier=width_multiplier)
