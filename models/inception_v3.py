"""Inception v3: large filters taken apart into small and one-dimensional ones.

Szegedy, Vanhoucke, Ioffe, Shlens, Wojna 2015, "Rethinking the Inception Architecture for Computer
Vision", arXiv:1512.00567, section 6 and table 1. Two 3x3 filters see what a 5x5 sees for 18/25 of
its cost, and a 1x7 followed by a 7x1 what a 7x7 sees for 2/7. Coarse maps get wide modules whose
last filters lie side by side and not one behind the other. Where a map is halved, a strided
convolution and a pooling do it together, so that no layer has to press all through a narrow map.
Sizes at 299 x 299, the published input, without padding, and at 320 x 320 with it:

    part                stride  299   320   channels         what
    ------------------  ------  ----  ----  ---------------  ---------------------------------------
    Conv2d_1a, 2a, 2b   2       147   160   32, 32, 64       3x3
    Conv2d_3b, 4a       4       71    80    80, 192          pool; 1x1, 3x3
    Mixed_5b c d        8       35    40    256, 288, 288    figure 5: 5x5, two 3x3
    Mixed_6a b c d e    16      17    20    768              halved; figure 6: 1x7 and 7x1
    Mixed_7a b c        32      8     10    1280, 2048, 2048 halved; figure 7: 1x3 beside 3x1

Tensor names are torchvision's. Where we depart: maps have exactly the input's size over the stride;
the published network does not pad its halving layers and two of the stem's convolutions, which
`padding="valid"` reproduces, with any input of at least 75 x 75, and torchvision's numbers. As the
public weights need, the stem has one 3x3 less than table 1, the second branch at stride 8 has a 5x5
and not its two 3x3, and stride 16 has four modules for the table's five. The auxiliary classifier
and dropout are not built. torchvision's file reads pixels between -1 and 1.
"""

from collections.abc import Sequence
from functools import partial

from torch import nn

from models.backbone import register
from models.blocks import Branches, ConvBn
from models.inception_chain import STRIDES, InceptionChain, Padding, Part, halving_pool, is_same


def _pooled(in_channels: int, channels: int) -> dict[str, nn.Module]:
    """3x3 means, then a 1x1 convolution."""
    return {
        "pool": nn.AvgPool2d(3, stride=1, padding=1),
        "branch_pool": ConvBn(in_channels, channels, 1),
    }


def module_5(in_channels: int, pooled: int) -> Branches:
    """[N, in_channels, h, w] -> [N, 224 + pooled, h, w] (figure 5)."""
    return Branches(
        {"branch1x1": ConvBn(in_channels, 64, 1)},
        {"branch5x5_1": ConvBn(in_channels, 48, 1), "branch5x5_2": ConvBn(48, 64, 5)},
        {
            "branch3x3dbl_1": ConvBn(in_channels, 64, 1),
            "branch3x3dbl_2": ConvBn(64, 96, 3),
            "branch3x3dbl_3": ConvBn(96, 96, 3),
        },
        _pooled(in_channels, pooled),
    )


def module_6(in_channels: int, width: int) -> Branches:
    """[N, in_channels, h, w] -> [N, 768, h, w] (figure 6 with n = 7).

    width: channels between the one-dimensional filters.
    """
    return Branches(
        {"branch1x1": ConvBn(in_channels, 192, 1)},
        {
            "branch7x7_1": ConvBn(in_channels, width, 1),
            "branch7x7_2": ConvBn(width, width, (1, 7)),
            "branch7x7_3": ConvBn(width, 192, (7, 1)),
        },
        {
            "branch7x7dbl_1": ConvBn(in_channels, width, 1),
            "branch7x7dbl_2": ConvBn(width, width, (7, 1)),
            "branch7x7dbl_3": ConvBn(width, width, (1, 7)),
            "branch7x7dbl_4": ConvBn(width, width, (7, 1)),
            "branch7x7dbl_5": ConvBn(width, 192, (1, 7)),
        },
        _pooled(in_channels, 192),
    )


def module_7(in_channels: int) -> Branches:
    """[N, in_channels, h, w] -> [N, 2048, h, w] (figure 7): two branches end in a fork."""
    short: dict[str, nn.Module] = {"branch3x3_1": ConvBn(in_channels, 384, 1)}
    long: dict[str, nn.Module] = {
        "branch3x3dbl_1": ConvBn(in_channels, 448, 1),
        "branch3x3dbl_2": ConvBn(448, 384, 3),
    }
    return Branches(
        {"branch1x1": ConvBn(in_channels, 320, 1)},
        {**short, "branch3x3_2a": ConvBn(384, 384, (1, 3))},
        {**short, "branch3x3_2b": ConvBn(384, 384, (3, 1))},
        {**long, "branch3x3dbl_3a": ConvBn(384, 384, (1, 3))},
        {**long, "branch3x3dbl_3b": ConvBn(384, 384, (3, 1))},
        _pooled(in_channels, 192),
    )


def halving_6(in_channels: int, *, padded: bool) -> Branches:
    """[N, in_channels, h, w] -> [N, 480 + in_channels, h / 2, w / 2] (figure 10)."""
    return Branches(
        {"branch3x3": ConvBn(in_channels, 384, 3, stride=2, padded=padded)},
        {
            "branch3x3dbl_1": ConvBn(in_channels, 64, 1),
            "branch3x3dbl_2": ConvBn(64, 96, 3),
            "branch3x3dbl_3": ConvBn(96, 96, 3, stride=2, padded=padded),
        },
        {"pool": halving_pool(padded)},
    )


def halving_7(in_channels: int, *, padded: bool) -> Branches:
    """[N, in_channels, h, w] -> [N, 512 + in_channels, h / 2, w / 2]."""
    return Branches(
        {
            "branch3x3_1": ConvBn(in_channels, 192, 1),
            "branch3x3_2": ConvBn(192, 320, 3, stride=2, padded=padded),
        },
        {
            "branch7x7x3_1": ConvBn(in_channels, 192, 1),
            "branch7x7x3_2": ConvBn(192, 192, (1, 7)),
            "branch7x7x3_3": ConvBn(192, 192, (7, 1)),
            "branch7x7x3_4": ConvBn(192, 192, 3, stride=2, padded=padded),
        },
        {"pool": halving_pool(padded)},
    )


@register(
    paper="Szegedy et al. 2015, arXiv:1512.00567",
    input_size=(320, 320),
    parameters=21_785_568,
    multiply_adds=7_748_403_200,
    weights_origin="torchvision (ImageNet)",
    weights_licence="BSD-3-Clause",
)
def inception_v3(strides: Sequence[int] = STRIDES, *, padding: Padding = "same") -> InceptionChain:
    """The network of section 6 with batch norm throughout."""
    same = is_same(padding)
    parts = [
        Part("Conv2d_1a_3x3", 2, 32, partial(ConvBn, 3, 32, 3, stride=2, padded=same)),
        Part("Conv2d_2a_3x3", 2, 32, partial(ConvBn, 32, 32, 3, padded=same)),
        Part("Conv2d_2b_3x3", 2, 64, partial(ConvBn, 32, 64, 3)),
        Part("maxpool1", 4, 64, partial(halving_pool, same)),
        Part("Conv2d_3b_1x1", 4, 80, partial(ConvBn, 64, 80, 1)),
        Part("Conv2d_4a_3x3", 4, 192, partial(ConvBn, 80, 192, 3, padded=same)),
        Part("maxpool2", 8, 192, partial(halving_pool, same)),
        Part("Mixed_5b", 8, 256, partial(module_5, 192, 32)),
        Part("Mixed_5c", 8, 288, partial(module_5, 256, 64)),
        Part("Mixed_5d", 8, 288, partial(module_5, 288, 64)),
        Part("Mixed_6a", 16, 768, partial(halving_6, 288, padded=same)),
        Part("Mixed_6b", 16, 768, partial(module_6, 768, 128)),
        Part("Mixed_6c", 16, 768, partial(module_6, 768, 160)),
        Part("Mixed_6d", 16, 768, partial(module_6, 768, 160)),
        Part("Mixed_6e", 16, 768, partial(module_6, 768, 192)),
        Part("Mixed_7a", 32, 1280, partial(halving_7, 768, padded=same)),
        Part("Mixed_7b", 32, 2048, partial(module_7, 1280)),
        Part("Mixed_7c", 32, 2048, partial(module_7, 2048)),
    ]
    return InceptionChain(parts, strides, padding=padding)
