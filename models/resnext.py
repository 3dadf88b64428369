"""ResNeXt: many equal paths in a block, as one grouped convolution.

Xie, Girshick, Dollar, Tu, He 2016, "Aggregated Residual Transformations for Deep Neural Networks",
arXiv:1611.05431, section 3 and table 1. A Bottleneck becomes a sum of C (the cardinality) narrow
ones of d channels each; that sum equals a single Bottleneck whose 3x3 has C groups (figure 3c). At
the same cost more and narrower paths are better than a deeper or wider block. Table 1, at 224 x
224, C x d as in the names:

    part     stride  size       out    inside 32x4d  32x8d  64x4d   blocks 50  101
    -------  ------  ---------  -----  ------------  -----  -----   ---------  ---
    conv1    2       112 x 112  64     7x7
    layer1   4       56 x 56    256    128           256    256     3          3
    layer2   8       28 x 28    512    256           512    512     4          4
    layer3   16      14 x 14    1024   512           1024   1024    6          23
    layer4   32      7 x 7      2048   1024          2048   2048    3          3

Tensor names are torchvision's. Where we depart from the paper: nothing but that stages deeper than
the coarsest asked stride are not built (the paper, too, has the stride on the 3x3 convolution).
"""

from collections.abc import Sequence
from functools import partial

from models.backbone import register
from models.blocks import Bottleneck
from models.residual import STRIDES, Depths, ResidualBackbone, resnet_stem


class ResNeXt(ResidualBackbone):
    """Table 1 of the paper without its pooling and classifier.

    depths: blocks of layer1 to layer4.
    groups, group_width: cardinality, and channels of a path in layer1.
    """

    def __init__(
        self, depths: Depths, groups: int, group_width: int, strides: Sequence[int] = STRIDES
    ) -> None:
        block = partial(Bottleneck, groups=groups, group_width=group_width)
        super().__init__(block, depths, strides, expansion=Bottleneck.expansion, stem=resnet_stem())


_PAPER = "Xie et al. 2016, arXiv:1611.05431"
_WEIGHTS = "torchvision (ImageNet)"
_LICENCE = "BSD-3-Clause"


@register(
    paper=_PAPER,
    input_size=(224, 224),
    parameters=22_979_904,
    multiply_adds=4_228_431_872,
    weights_origin=_WEIGHTS,
    weights_licence=_LICENCE,
)
def resnext50_32x4d(strides: Sequence[int] = STRIDES) -> ResNeXt:
    """The paper's network beside resnet50, of the same cost."""
    return ResNeXt((3, 4, 6, 3), 32, 4, strides)


@register(
    paper=_PAPER,
    input_size=(224, 224),
    parameters=86_742_336,
    multiply_adds=16_411_967_488,
    weights_origin=_WEIGHTS,
    weights_licence=_LICENCE,
)
def resnext101_32x8d(strides: Sequence[int] = STRIDES) -> ResNeXt:
    """Twice the cost of resnet101, in paths of 8 channels."""
    return ResNeXt((3, 4, 23, 3), 32, 8, strides)


@register(
    paper=_PAPER,
    input_size=(224, 224),
    parameters=81_406_272,
    multiply_adds=15_458_222_080,
    weights_origin=_WEIGHTS,
    weights_licence=_LICENCE,
)
def resnext101_64x4d(strides: Sequence[int] = STRIDES) -> ResNeXt:
    """Twice the cost of resnet101, in 64 paths: the paper's best."""
    return ResNeXt((3, 4, 23, 3), 64, 4, strides)
