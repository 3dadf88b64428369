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

`wide_resnet50_2` doubles the width inside each Bottleneck of resnet50, not that between blocks
(Zagoruyko, Komodakis 2016, arXiv:1605.07146: wider does what deeper does, and runs faster).

Tensor names are torchvision's. Where we depart from the paper: the Bottleneck has its stride on the
3x3 convolution, as torchvision's weights need (see blocks.Bottleneck). Stages deeper than the
coarsest asked stride are not built.
"""

from collections.abc import Sequence
from functools import partial

from models.backbone import register
from models.blocks import BasicBlock, Bottleneck
from models.residual import STRIDES, Depths, ResidualBackbone, resnet_stem


class ResNet(ResidualBackbone):
    """Table 1 of the paper without its pooling and classifier.

    depths: blocks of layer1 to layer4.
    group_width: channels inside the first Bottlenecks; the paper has 64.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: Depths,
        strides: Sequence[int] = STRIDES,
        *,
        group_width: int = 64,
    ) -> None:
        make = block if block is BasicBlock else partial(Bottleneck, group_width=group_width)
        super().__init__(make, depths, strides, expansion=block.expansion, stem=resnet_stem())


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


@register(
    paper="Zagoruyko, Komodakis 2016, arXiv:1605.07146",
    input_size=(224, 224),
    parameters=66_834_240,
    multiply_adds=11_395_973_120,
    weights_origin=_WEIGHTS,
    weights_licence=_LICENCE,
)
def wide_resnet50_2(strides: Sequence[int] = STRIDES) -> ResNet:
    """resnet50 with Bottlenecks twice as wide inside."""
    return ResNet(Bottleneck, (3, 4, 6, 3), strides, group_width=128)
