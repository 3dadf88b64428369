"""ResNet: let each pair of convolutions learn what to add to its input.

He, Zhang, Ren, Sun 2015, "Deep Residual Learning for Image Recognition", arXiv:1512.03385,
sections 3 and 4.1. A plain stack gets worse when it gets deeper; a stack of y = x + f(x) does not,
because doing nothing is easy to learn. Where the size halves, the width doubles and the shortcut
is a 1x1 convolution. Table 1 of the paper, at 224 x 224:

    part     stride  size       width  18 34  (BasicBlock)   50 101 152  (Bottleneck, 4 x width)
    -------  ------  ---------  -----  ---------------------  ------------------------------------
    conv1    2       112 x 112  64     7x7                    7x7
    layer1   4       56 x 56    64     2  3                   3  3   3     (after 3x3 max pooling)
    layer2   8       28 x 28    128    2  4                   4  4   8
    layer3   16      14 x 14    256    2  6                   6  23  36
    layer4   32      7 x 7      512    2  3                   3  3   3

Tensor names are torchvision's. Where we depart from the paper: the Bottleneck has its stride on the
3x3 convolution, as torchvision's weights need (see blocks.Bottleneck). Stages deeper than the
coarsest asked stride are not built.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from models.backbone import Backbone, FeatureSpec, register
from models.blocks import BasicBlock, Bottleneck, initialise

STRIDES = (4, 8, 16, 32)
WIDTHS = (64, 128, 256, 512)


class ResNet(Backbone):
    """Table 1 of the paper without its pooling and classifier.

    depths: blocks of layer1 to layer4.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: tuple[int, int, int, int],
        strides: Sequence[int] = STRIDES,
    ) -> None:
        stages = STRIDES.index(max(strides)) + 1
        super().__init__(
            specs=[
                FeatureSpec(stride, WIDTHS[STRIDES.index(stride)] * block.expansion)
                for stride in strides
            ],
            unbuilt=[f"layer{stage}." for stage in range(stages + 1, 5)],
        )
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        in_channels = 64
        self.stages: list[str] = []
        for width, depth, stride in list(zip(WIDTHS, depths, (1, 2, 2, 2), strict=True))[:stages]:
            out_channels = width * block.expansion
            blocks = [block(in_channels, width, stride)]
            blocks += [block(out_channels, width) for _ in range(depth - 1)]
            self.stages.append(f"layer{len(self.stages) + 1}")
            self.add_module(self.stages[-1], nn.Sequential(*blocks))
            in_channels = out_channels
        initialise(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        """[N, 3, H, W] -> the asked maps, finest first."""
        self.check_input(x)
        asked = [spec.stride for spec in self.specs]
        maps = []
        x = self.relu(self.bn1(self.conv1(x)))  # stride 2
        x = self.maxpool(x)  # stride 4
        for stage, stride in zip(self.stages, STRIDES, strict=False):
            x = self.get_submodule(stage)(x)
            if stride in asked:
                maps.append(x)
        return maps


_PAPER = "He et al. 2015, arXiv:1512.03385"
_WEIGHTS = "torchvision (ImageNet)"
_LICENCE = "BSD-3-Clause"


@register(
    paper=_PAPER,
    input_size=(224, 224),
    parameters=11_176_512,
    multiply_adds=1_813_561_344,
    weights_origin=_WEIGHTS,
    weights_licence=_LICENCE,
)
def resnet18(strides: Sequence[int] = STRIDES) -> ResNet:
    """18 layers with weights: 8 BasicBlocks."""
    return ResNet(BasicBlock, (2, 2, 2, 2), strides)


@register(
    paper=_PAPER,
    input_size=(224, 224),
    parameters=21_284_672,
    multiply_adds=3_663_249_408,
    weights_origin=_WEIGHTS,
    weights_licence=_LICENCE,
)
def resnet34(strides: Sequence[int] = STRIDES) -> ResNet:
    """34 layers with weights: 16 BasicBlocks."""
    return ResNet(BasicBlock, (3, 4, 6, 3), strides)


@register(
    paper=_PAPER,
    input_size=(224, 224),
    parameters=23_508_032,
    multiply_adds=4_087_136_256,
    weights_origin=_WEIGHTS,
    weights_licence=_LICENCE,
)
def resnet50(strides: Sequence[int] = STRIDES) -> ResNet:
    """50 layers with weights: 16 Bottlenecks."""
    return ResNet(Bottleneck, (3, 4, 6, 3), strides)


@register(
    paper=_PAPER,
    input_size=(224, 224),
    parameters=42_500_160,
    multiply_adds=7_799_357_440,
    weights_origin=_WEIGHTS,
    weights_licence=_LICENCE,
)
def resnet101(strides: Sequence[int] = STRIDES) -> ResNet:
    """101 layers with weights: 33 Bottlenecks."""
    return ResNet(Bottleneck, (3, 4, 23, 3), strides)


@register(
    paper=_PAPER,
    input_size=(224, 224),
    parameters=58_143_808,
    multiply_adds=11_511_578_624,
    weights_origin=_WEIGHTS,
    weights_licence=_LICENCE,
)
def resnet152(strides: Sequence[int] = STRIDES) -> ResNet:
    """152 layers with weights: 50 Bottlenecks."""
    return ResNet(Bottleneck, (3, 8, 36, 3), strides)
