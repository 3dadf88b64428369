"""ResNet-C and ResNet-D: two small changes where ResNet loses information or costs too much.

He, Zhang, Zhang, Zhang, Xie, Li 2018, "Bag of Tricks for Image Classification with Convolutional
Neural Networks", arXiv:1812.01187, section 4 and figure 2. C: three 3x3 convolutions for the first
7x7. D: C, and the shortcut that halves the size takes 2x2 means before its 1x1 convolution, which
else would never see three of four cells. (B, the stride on the 3x3, is what resnet.py has.)

                                       BasicBlock  Bottleneck, 4 x width
    part     stride  size       width  18d  34d    50c 50d  101c 101d  152c 152d
    -------  ------  ---------  -----  ---  ---    -------  ---------  ---------
    conv1    2       112 x 112  64     3x3 to 32, 3x3 to 32, 3x3 to 64
    layer1   4       56 x 56    64     2    3      3        3          3   (after 3x3 pooling)
    layer2   8       28 x 28    128    2    4      4        4          8
    layer3   16      14 x 14    256    2    6      6        23         36
    layer4   32      7 x 7      512    2    3      3        3          3

Tensor names are timm's. Where we depart from the paper: it has no BasicBlocks, whose variants are
timm's, and stages deeper than the coarsest asked stride are not built.
"""

from collections.abc import Sequence
from functools import partial

from models.backbone import register
from models.blocks import BasicBlock, Bottleneck
from models.residual import STRIDES, Depths, ResidualBackbone, deep_stem

STEM_WIDTH = 32


class ResNetD(ResidualBackbone):
    """The paper's network without its pooling and classifier.

    depths: blocks of layer1 to layer4.
    pooled_shortcut: D; without it the network is C.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: Depths,
        strides: Sequence[int] = STRIDES,
        *,
        pooled_shortcut: bool = True,
    ) -> None:
        super().__init__(
            partial(block, pooled_shortcut=pooled_shortcut),
            depths,
            strides,
            expansion=block.expansion,
            stem=deep_stem(STEM_WIDTH),
            stem_channels=2 * STEM_WIDTH,
        )


_PAPER = "He et al. 2018, arXiv:1812.01187"
_GLUON = "GluonCV, in timm (ImageNet)"
_TIMM = "timm (ImageNet)"
_LICENCE = "Apache-2.0"


@register(
    paper=_PAPER,
    input_size=(224, 224),
    parameters=23_527_264,
    multiply_adds=4_326_776_832,
    weights_origin=_GLUON,
    weights_licence=_LICENCE,
)
def resnet50c(strides: Sequence[int] = STRIDES) -> ResNetD:
    """resnet50 with a stem of 3x3 convolutions."""
    return ResNetD(Bottleneck, (3, 4, 6, 3), strides, pooled_shortcut=False)


@register(
    paper=_PAPER,
    input_size=(224, 224),
    parameters=42_519_392,
    multiply_adds=8_038_998_016,
    weights_origin=_GLUON,
    weights_licence=_LICENCE,
)
def resnet101c(strides: Sequence[int] = STRIDES) -> ResNetD:
    """resnet101 with a stem of 3x3 convolutions."""
    return ResNetD(Bottleneck, (3, 4, 23, 3), strides, pooled_shortcut=False)


@register(
    paper=_PAPER,
    input_size=(224, 224),
    parameters=58_163_040,
    multiply_adds=11_751_219_200,
    weights_origin=_GLUON,
    weights_licence=_LICENCE,
)
def resnet152c(strides: Sequence[int] = STRIDES) -> ResNetD:
    """resnet152 with a stem of 3x3 convolutions."""
    return ResNetD(Bottleneck, (3, 8, 36, 3), strides, pooled_shortcut=False)


@register(
    paper=_PAPER,
    input_size=(224, 224),
    parameters=11_195_744,
    multiply_adds=2_053_201_920,
    weights_origin=_TIMM,
    weights_licence=_LICENCE,
)
def resnet18d(strides: Sequence[int] = STRIDES) -> ResNetD:
    """resnet18 with that stem and pooled shortcuts."""
    return ResNetD(BasicBlock, (2, 2, 2, 2), strides)


@register(
    paper=_PAPER,
    input_size=(224, 224),
    parameters=21_303_904,
    multiply_adds=3_902_889_984,
    weights_origin=_TIMM,
    weights_licence=_LICENCE,
)
def resnet34d(strides: Sequence[int] = STRIDES) -> ResNetD:
    """resnet34 with that stem and pooled shortcuts."""
    return ResNetD(BasicBlock, (3, 4, 6, 3), strides)


@register(
    paper=_PAPER,
    input_size=(224, 224),
    parameters=23_527_264,
    multiply_adds=4_326_776_832,
    weights_origin=_TIMM,
    weights_licence=_LICENCE,
)
def resnet50d(strides: Sequence[int] = STRIDES) -> ResNetD:
    """resnet50 with that stem and pooled shortcuts."""
    return ResNetD(Bottleneck, (3, 4, 6, 3), strides)


@register(
    paper=_PAPER,
    input_size=(224, 224),
    parameters=42_519_392,
    multiply_adds=8_038_998_016,
    weights_origin=_TIMM,
    weights_licence=_LICENCE,
)
def resnet101d(strides: Sequence[int] = STRIDES) -> ResNetD:
    """resnet101 with that stem and pooled shortcuts."""
    return ResNetD(Bottleneck, (3, 4, 23, 3), strides)


@register(
    paper=_PAPER,
    input_size=(224, 224),
    parameters=58_163_040,
    multiply_adds=11_751_219_200,
    weights_origin=_TIMM,
    weights_licence=_LICENCE,
)
def resnet152d(strides: Sequence[int] = STRIDES) -> ResNetD:
    """resnet152 with that stem and pooled shortcuts."""
    return ResNetD(Bottleneck, (3, 8, 36, 3), strides)
