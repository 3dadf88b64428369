"""ShuffleNetV2: what a network costs in time, not in multiply-adds.

Ma, Zhang, Zheng, Sun 2018, "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture
Design", arXiv:1807.11164, section 3 and table 5. Four guidelines from measured speed: equal widths
in and out need the least memory traffic; grouped convolutions cost more than they count; many small
branches and element-wise operations cost as well. So a block splits its channels, works on one half
with equal widths, joins both halves and shuffles them, which is also how the halves exchange. At
224 x 224, x1_0:

    part     what                channels  blocks  output stride  size
    -------  ------------------  --------  ------  -------------  ---------
    conv1    3x3, stride 2       24        1       2              112 x 112
    maxpool  3x3, stride 2       24        1       4              56 x 56
    stage2   units               116       4       8              28 x 28
    stage3   units               232       8       16             14 x 14
    stage4   units               464       4       32             7 x 7
    conv5    1x1                 1024      1       32             7 x 7

Tensor names are torchvision's. Where we depart: conv5 belongs to the classifier and is built only
when asked for.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.backbone import Backbone, FeatureSpec, register
from models.blocks import initialise, shuffle
from models.errors import SpecError

STRIDES = (4, 8, 16, 32)
STEM_CHANNELS = 24
BLOCKS = (4, 8, 4)


class Unit(nn.Module):
    """Half of the channels pass, half are worked on; with stride 2 both are (figure 3c, 3d)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        half = out_channels // 2
        self.splits = stride == 1
        first = half if self.splits else in_channels
        self.branch1 = nn.Sequential()
        if not self.splits:
            self.branch1 = nn.Sequential(
                *_depthwise(in_channels, stride), *_pointwise(in_channels, half)
            )
        self.branch2 = nn.Sequential(
            *_pointwise(first, half), *_depthwise(half, stride), *_pointwise(half, half)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] -> [N, out_channels, H / stride, W / stride]."""
        passing, worked = x.chunk(2, dim=1) if self.splits else (self.branch1(x), x)
        return shuffle(torch.cat([passing, self.branch2(worked)], dim=1), groups=2)


def _depthwise(channels: int, stride: int) -> list[nn.Module]:
    conv = nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False)
    return [conv, nn.BatchNorm2d(channels)]


def _pointwise(in_channels: int, out_channels: int) -> list[nn.Module]:
    conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
    return [conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]


class ShuffleNetV2(Backbone):
    """Table 5 of the paper without pooling and classifier.

    channels: of stages 2, 3, 4 and of conv5.  head_conv: stride 32 is conv5, not stage 4.
    """

    def __init__(
        self, channels: tuple[int, int, int, int], *, strides: Sequence[int], head_conv: bool
    ) -> None:
        if head_conv and 32 not in strides:
            raise SpecError("ShuffleNetV2's conv5 is at stride 32, which was not asked for")
        widths = {4: STEM_CHANNELS, 8: channels[0], 16: channels[1], 32: channels[2]}
        if head_conv:
            widths[32] = channels[3]
        coarsest = max(strides)
        names = {8: "stage2", 16: "stage3", 32: "stage4"}
        unbuilt = [f"{name}." for stride, name in names.items() if stride > coarsest]
        super().__init__(
            specs=[FeatureSpec(stride, widths[stride]) for stride in strides],
            unbuilt=unbuilt if head_conv else [*unbuilt, "conv5."],
        )
        self.asked = tuple(strides)
        self.conv1 = nn.Sequential(
            nn.Conv2d(3, STEM_CHANNELS, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(STEM_CHANNELS),
            nn.ReLU(inplace=True),
        )
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        previous = STEM_CHANNELS
        for (stride, name), width, blocks in zip(names.items(), channels, BLOCKS, strict=False):
            if stride <= coarsest:
                units = [
                    Unit(previous if i == 0 else width, width, 2 if i == 0 else 1)
                    for i in range(blocks)
                ]
                self.add_module(name, nn.Sequential(*units))
            previous = width
        if head_conv:
            self.conv5 = nn.Sequential(*_pointwise(channels[2], channels[3]))
        self.has_head_conv = head_conv
        initialise(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        """[N, 3, H, W] -> the asked maps, finest first."""
        self.check_input(x)
        x = self.maxpool(self.conv1(x))
        maps = {4: x}
        for stride, name in ((8, "stage2"), (16, "stage3"), (32, "stage4")):
            if stride <= max(self.asked):
                x = self.get_submodule(name)(x)
                maps[stride] = x
        if self.has_head_conv:
            maps[32] = self.conv5(x)
        return [maps[stride] for stride in self.asked]


_PAPER = "Ma et al. 2018, arXiv:1807.11164"


@register(
    paper=_PAPER,
    input_size=(224, 224),
    parameters=143_136,
    multiply_adds=29_818_656,
    weights_origin="torchvision (ImageNet)",
    weights_licence="BSD-3-Clause",
    classification_options={"head_conv": True},
)
def shufflenet_v2_x0_5(
    strides: Sequence[int] = STRIDES, *, head_conv: bool = False
) -> ShuffleNetV2:
    """Channels 48, 96, 192."""
    return ShuffleNetV2((48, 96, 192, 1024), strides=strides, head_conv=head_conv)


@register(
    paper=_PAPER,
    input_size=(224, 224),
    parameters=776_420,
    multiply_adds=120_602_328,
    weights_origin="torchvision (ImageNet)",
    weights_licence="BSD-3-Clause",
    classification_options={"head_conv": True},
)
def shufflenet_v2_x1_0(
    strides: Sequence[int] = STRIDES, *, head_conv: bool = False
) -> ShuffleNetV2:
    """Channels 116, 232, 464."""
    return ShuffleNetV2((116, 232, 464, 1024), strides=strides, head_conv=head_conv)


@register(
    paper=_PAPER,
    input_size=(224, 224),
    parameters=1_755_680,
    multiply_adds=259_411_488,
    weights_origin="torchvision (ImageNet)",
    weights_licence="BSD-3-Clause",
    classification_options={"head_conv": True},
)
def shufflenet_v2_x1_5(
    strides: Sequence[int] = STRIDES, *, head_conv: bool = False
) -> ShuffleNetV2:
    """Channels 176, 352, 704."""
    return ShuffleNetV2((176, 352, 704, 1024), strides=strides, head_conv=head_conv)


@register(
    paper=_PAPER,
    input_size=(224, 224),
    parameters=3_342_052,
    multiply_adds=483_261_912,
    weights_origin="torchvision (ImageNet)",
    weights_licence="BSD-3-Clause",
    classification_options={"head_conv": True},
)
def shufflenet_v2_x2_0(
    strides: Sequence[int] = STRIDES, *, head_conv: bool = False
) -> ShuffleNetV2:
    """Channels 244, 488, 976."""
    return ShuffleNetV2((244, 488, 976, 2048), strides=strides, head_conv=head_conv)
