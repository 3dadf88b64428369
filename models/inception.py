"""GoogLeNet and BN-Inception: filters of several sizes side by side, made cheap by 1x1 ones.

GoogLeNet: Szegedy et al. 2014, "Going Deeper with Convolutions", arXiv:1409.4842, section 5 and
table 1. BN-Inception (Inception v2): Ioffe, Szegedy 2015, "Batch Normalization: Accelerating Deep
Network Training by Reducing Internal Covariate Shift", arXiv:1502.03167, section 4.2 and figure 5.
A module looks at its map through 1x1, 3x3 and 5x5 filters and a 3x3 pooling, and puts what they
answer next to each other. Before a large filter a 1x1 convolution takes the channels down, so that
depth and width grow at little cost. BN-Inception normalises each convolution's output over the
batch, looks twice through 3x3 instead of once through 5x5, and halves maps inside modules.
At 224 x 224:

    part       stride  size       GoogLeNet   channels        BN-Inception         channels
    ---------  ------  ---------  ----------  --------------  -------------------  ---------------
    conv1      2       112 x 112  7x7         64              7x7                  64
    conv2, 3   4       56 x 56    pool; 1, 3  64, 192         pool; 1x1, 3x3       64, 192
    inception  8       28 x 28    3a b        256 480         3a b                 256 320
               16      14 x 14    4a b c d e  512 512 512     3c (halves) 4a b c   576 576 576 608
                                              528 832         4d                   608
               32      7 x 7      5a b        832 1024        4e (halves) 5a b     1056 1024 1024

GoogLeNet's tensor names are torchvision's; BN-Inception's are the same, and a table in weights.py
brings pytorchcv's to them. Where we depart, as the public weights need: torchvision's GoogLeNet
has batch norm and no local response norm, its branch3 has 3x3 filters where the paper has 5x5, and
its last pool is 2x2; BN-Inception's first layer is a plain 7x7 convolution and not a separable one,
and all its convolutions have biases. Auxiliary classifiers and dropout are not built. Pools count
a cut-off window at the border, so that maps have exactly the input's size over the stride.
torchvision's file reads pixels between -1 and 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from torch import nn

from models.backbone import register
from models.blocks import Branches, ConvBn
from models.inception_chain import STRIDES, InceptionChain, Part


@dataclass(frozen=True)
class Row:
    """Channels of a module: of 1x1; of 3x3 and of 5x5 (two 3x3), each behind a 1x1; of the pool.

    0: the module has no such branch.  peaks: it pools maxima, else means.
    """

    ones: int
    threes: tuple[int, int]
    fives: tuple[int, int]
    pooled: int
    peaks: bool = True

    @property
    def channels(self) -> int:
        """Of the module's output."""
        return self.ones + self.threes[1] + self.fives[1] + self.pooled


GOOGLENET = {
    "3a": Row(64, (96, 128), (16, 32), 32),
    "3b": Row(128, (128, 192), (32, 96), 64),
    "4a": Row(192, (96, 208), (16, 48), 64),
    "4b": Row(160, (112, 224), (24, 64), 64),
    "4c": Row(128, (128, 256), (24, 64), 64),
    "4d": Row(112, (144, 288), (32, 64), 64),
    "4e": Row(256, (160, 320), (32, 128), 128),
    "5a": Row(256, (160, 320), (32, 128), 128),
    "5b": Row(384, (192, 384), (48, 128), 128),
}

BN_INCEPTION = {
    "3a": Row(64, (64, 64), (64, 96), 32, peaks=False),
    "3b": Row(64, (64, 96), (64, 96), 64, peaks=False),
    "3c": Row(0, (128, 160), (64, 96), 0),
    "4a": Row(224, (64, 96), (96, 128), 128, peaks=False),
    "4b": Row(192, (96, 128), (96, 128), 128, peaks=False),
    "4c": Row(160, (128, 160), (128, 160), 128, peaks=False),
    "4d": Row(96, (128, 192), (160, 192), 128, peaks=False),
    "4e": Row(0, (128, 192), (192, 256), 0),
    "5a": Row(352, (192, 320), (160, 224), 128, peaks=False),
    "5b": Row(352, (192, 320), (192, 224), 128),
}

_biased_conv = partial(ConvBn, bias=True, eps=1e-5)


def inception(in_channels: int, row: Row) -> Branches:
    """GoogLeNet's module (arXiv:1409.4842, figure 2b)."""
    return Branches(
        {"branch1": ConvBn(in_channels, row.ones, 1)},
        {"branch2": nn.Sequential(ConvBn(in_channels, row.threes[0], 1), ConvBn(*row.threes, 3))},
        {"branch3": nn.Sequential(ConvBn(in_channels, row.fives[0], 1), ConvBn(*row.fives, 3))},
        {
            "branch4": nn.Sequential(
                nn.MaxPool2d(3, stride=1, padding=1), ConvBn(in_channels, row.pooled, 1)
            )
        },
    )


def normalised_inception(in_channels: int, row: Row) -> Branches:
    """BN-Inception's module; without 1x1 and pooled channels it halves the map."""
    stride = 1 if row.ones else 2
    branches: dict[str, nn.Module] = {
        "branch2": nn.Sequential(
            _biased_conv(in_channels, row.threes[0], 1),
            _biased_conv(*row.threes, 3, stride=stride),
        ),
        "branch3": nn.Sequential(
            _biased_conv(in_channels, row.fives[0], 1),
            _biased_conv(*row.fives, 3),
            _biased_conv(row.fives[1], row.fives[1], 3, stride=stride),
        ),
    }
    if stride == 2:
        branches["branch4"] = _halving_pool()
    else:
        pool = nn.MaxPool2d if row.peaks else nn.AvgPool2d
        branches = {"branch1": _biased_conv(in_channels, row.ones, 1), **branches}
        branches["branch4"] = nn.Sequential(
            pool(3, stride=1, padding=1), _biased_conv(in_channels, row.pooled, 1)
        )
    return Branches(*({name: branch} for name, branch in branches.items()))


def _halving_pool(kernel: int = 3) -> nn.MaxPool2d:
    """Maxima at every second cell, from that cell on: exactly half of an even size."""
    return nn.MaxPool2d(kernel, stride=2, ceil_mode=True)


def _stem(conv: partial[ConvBn] | type[ConvBn]) -> list[Part]:
    """7x7, pool, 1x1 and 3x3 convolutions, pool."""
    return [
        Part("conv1", 2, 64, partial(conv, 3, 64, 7, stride=2)),
        Part("maxpool1", 4, 64, _halving_pool),
        Part("conv2", 4, 64, partial(conv, 64, 64, 1)),
        Part("conv3", 4, 192, partial(conv, 64, 192, 3)),
        Part("maxpool2", 8, 192, _halving_pool),
    ]


@register(
    paper="Szegedy et al. 2014, arXiv:1409.4842",
    input_size=(224, 224),
    parameters=5_599_904,
    multiply_adds=1_497_352_192,
    weights_origin="torchvision (ImageNet)",
    weights_licence="BSD-3-Clause",
)
def googlenet(strides: Sequence[int] = STRIDES) -> InceptionChain:
    """Inception v1 with batch norm, as torchvision has it."""
    parts = _stem(ConvBn)
    stride_of = {"3": 8, "4": 16, "5": 32}
    for name, row in GOOGLENET.items():
        stride, channels = stride_of[name[0]], parts[-1].channels
        if stride > parts[-1].stride:
            pool = partial(_halving_pool, 2 if stride == 32 else 3)
            parts.append(Part(f"maxpool{int(name[0]) - 1}", stride, channels, pool))
        build = partial(inception, channels, row)
        parts.append(Part(f"inception{name}", stride, row.channels, build))
    return InceptionChain(parts, strides)


@register(
    paper="Ioffe, Szegedy 2015, arXiv:1502.03167",
    input_size=(224, 224),
    parameters=10_270_240,
    multiply_adds=2_031_576_064,
    weights_origin="pytorchcv (ImageNet)",
    weights_licence="MIT",
)
def inception_v2(strides: Sequence[int] = STRIDES) -> InceptionChain:
    """BN-Inception."""
    parts = _stem(_biased_conv)
    for name, row in BN_INCEPTION.items():
        before = parts[-1]
        halves = row.ones == 0
        channels = row.channels + (before.channels if halves else 0)
        build = partial(normalised_inception, before.channels, row)
        stride = 2 * before.stride if halves else before.stride
        parts.append(Part(f"inception{name}", stride, channels, build))
    return InceptionChain(parts, strides)
