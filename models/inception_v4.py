"""Inception v4: one plan for each map size, repeated, and halvings that keep every channel.

Szegedy, Ioffe, Vanhoucke, Alemi 2016, "Inception-v4, Inception-ResNet and the Impact of Residual
Connections on Learning", arXiv:1602.07261, section 3.1 and figures 3 to 9. Earlier Inceptions chose
each module's widths one by one, to fit how they were split over machines; without that need, all
modules at one size are alike (A, B and C). Every halving joins a strided convolution and a pooling,
in the stem too. Filters are those of Inception v3: 1x7 and 7x1 at stride 16, forks of 1x3 and 3x1
at stride 32. Sizes at 299 x 299, the published input, without padding, and at 320 x 320 with it:

    features  stride  299   320   channels  what
    --------  ------  ----  ----  --------  --------------------------------------------------
    0 1 2     2       147   160   32 32 64  3x3
    3         4       73    80    160       pool beside a strided 3x3
    4         4       71    80    192       1x1, 3x3 beside 1x1, 7x1, 1x7, 3x3
    5         8       35    40    384       pool beside a strided 3x3 (figure 3 ends)
    6 - 9     8       35    40    384       Inception-A x 4 (figure 4)
    10        16      17    20    1024      Reduction-A (figure 7)
    11 - 17   16      17    20    1024      Inception-B x 7 (figure 5)
    18        32      8     10    1536      Reduction-B (figure 8)
    19 - 21   32      8     10    1536      Inception-C x 3 (figure 6)

Tensor names are timm's. Where we depart: maps have exactly the input's size over the stride; the
layers that figures 3, 7 and 8 mark V are not padded, which `padding="valid"` reproduces, with any
input of at least 75 x 75, and timm's numbers. Dropout is not built. timm's file reads pixels
between -1 and 1.
"""

from collections.abc import Sequence
from functools import partial

from torch import nn

from models.backbone import register
from models.blocks import Branches, ConvBn
from models.inception_chain import STRIDES, InceptionChain, Padding, Part, halving_pool, is_same


def _pooled(in_channels: int, channels: int) -> nn.Sequential:
    """3x3 means of the cells inside the map, then a 1x1 convolution."""
    pool = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
    return nn.Sequential(pool, ConvBn(in_channels, channels, 1))


def stem_3(*, padded: bool) -> Branches:
    """[N, 64, h, w] -> [N, 160, h / 2, w / 2]."""
    return Branches(
        {"maxpool": halving_pool(padded)},
        {"conv": ConvBn(64, 96, 3, stride=2, padded=padded)},
    )


def stem_4(*, padded: bool) -> Branches:
    """[N, 160, h, w] -> [N, 192, h, w]."""
    return Branches(
        {"branch0": nn.Sequential(ConvBn(160, 64, 1), ConvBn(64, 96, 3, padded=padded))},
        {
            "branch1": nn.Sequential(
                ConvBn(160, 64, 1),
                ConvBn(64, 64, (1, 7)),
                ConvBn(64, 64, (7, 1)),
                ConvBn(64, 96, 3, padded=padded),
            )
        },
    )


def stem_5(*, padded: bool) -> Branches:
    """[N, 192, h, w] -> [N, 384, h / 2, w / 2]."""
    return Branches(
        {"conv": ConvBn(192, 192, 3, stride=2, padded=padded)},
        {"maxpool": halving_pool(padded)},
    )


def inception_a() -> Branches:
    """[N, 384, h, w] -> the same shape."""
    return Branches(
        {"branch0": ConvBn(384, 96, 1)},
        {"branch1": nn.Sequential(ConvBn(384, 64, 1), ConvBn(64, 96, 3))},
        {"branch2": nn.Sequential(ConvBn(384, 64, 1), ConvBn(64, 96, 3), ConvBn(96, 96, 3))},
        {"branch3": _pooled(384, 96)},
    )


def reduction_a(*, padded: bool) -> Branches:
    """[N, 384, h, w] -> [N, 1024, h / 2, w / 2] (table 1: k, l, m, n = 192, 224, 256, 384)."""
    return Branches(
        {"branch0": ConvBn(384, 384, 3, stride=2, padded=padded)},
        {
            "branch1": nn.Sequential(
                ConvBn(384, 192, 1),
                ConvBn(192, 224, 3),
                ConvBn(224, 256, 3, stride=2, padded=padded),
            )
        },
        {"branch2": halving_pool(padded)},
    )


def inception_b() -> Branches:
    """[N, 1024, h, w] -> the same shape."""
    return Branches(
        {"branch0": ConvBn(1024, 384, 1)},
        {
            "branch1": nn.Sequential(
                ConvBn(1024, 192, 1), ConvBn(192, 224, (1, 7)), ConvBn(224, 256, (7, 1))
            )
        },
        {
            "branch2": nn.Sequential(
                ConvBn(1024, 192, 1),
                ConvBn(192, 192, (7, 1)),
                ConvBn(192, 224, (1, 7)),
                ConvBn(224, 224, (7, 1)),
                ConvBn(224, 256, (1, 7)),
            )
        },
        {"branch3": _pooled(1024, 128)},
    )


def reduction_b(*, padded: bool) -> Branches:
    """[N, 1024, h, w] -> [N, 1536, h / 2, w / 2]."""
    return Branches(
        {
            "branch0": nn.Sequential(
                ConvBn(1024, 192, 1), ConvBn(192, 192, 3, stride=2, padded=padded)
            )
        },
        {
            "branch1": nn.Sequential(
                ConvBn(1024, 256, 1),
                ConvBn(256, 256, (1, 7)),
                ConvBn(256, 320, (7, 1)),
                ConvBn(320, 320, 3, stride=2, padded=padded),
            )
        },
        {"branch2": halving_pool(padded)},
    )


def inception_c() -> Branches:
    """[N, 1536, h, w] -> the same shape: two branches end in a fork."""
    short: dict[str, nn.Module] = {"branch1_0": ConvBn(1536, 384, 1)}
    long: dict[str, nn.Module] = {
        "branch2_0": ConvBn(1536, 384, 1),
        "branch2_1": ConvBn(384, 448, (3, 1)),
        "branch2_2": ConvBn(448, 512, (1, 3)),
    }
    return Branches(
        {"branch0": ConvBn(1536, 256, 1)},
        {**short, "branch1_1a": ConvBn(384, 256, (1, 3))},
        {**short, "branch1_1b": ConvBn(384, 256, (3, 1))},
        {**long, "branch2_3a": ConvBn(512, 256, (1, 3))},
        {**long, "branch2_3b": ConvBn(512, 256, (3, 1))},
        {"branch3": _pooled(1536, 256)},
    )


@register(
    paper="Szegedy et al. 2016, arXiv:1602.07261, section 3.1",
    input_size=(320, 320),
    parameters=41_142_816,
    multiply_adds=16_614_604_800,
    weights_origin="timm (ImageNet)",
    weights_licence="Apache-2.0",
)
def inception_v4(strides: Sequence[int] = STRIDES, *, padding: Padding = "same") -> InceptionChain:
    """The paper's network without residuals."""
    same = is_same(padding)
    parts = [
        Part("0", 2, 32, partial(ConvBn, 3, 32, 3, stride=2, padded=same)),
        Part("1", 2, 32, partial(ConvBn, 32, 32, 3, padded=same)),
        Part("2", 2, 64, partial(ConvBn, 32, 64, 3)),
        Part("3", 4, 160, partial(stem_3, padded=same)),
        Part("4", 4, 192, partial(stem_4, padded=same)),
        Part("5", 8, 384, partial(stem_5, padded=same)),
        *(Part(str(n), 8, 384, inception_a) for n in range(6, 10)),
        Part("10", 16, 1024, partial(reduction_a, padded=same)),
        *(Part(str(n), 16, 1024, inception_b) for n in range(11, 18)),
        Part("18", 32, 1536, partial(reduction_b, padded=same)),
        *(Part(str(n), 32, 1536, inception_c) for n in range(19, 22)),
    ]
    return InceptionChain(parts, strides, inside="features", padding=padding)
