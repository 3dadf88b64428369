"""SENet: each block weighs its channels by what it sees in the whole image.

Hu, Shen, Albanie, Sun, Wu 2017, "Squeeze-and-Excitation Networks", arXiv:1709.01507, section 3 and
table 1. The means of all channels (squeeze) go through a small network of two layers, C/16 wide
between them, to a gate for each channel (excitation; blocks.SqueezeExcite). Here the gates are on
what a block adds to its input, before the addition. At 224 x 224, with widths inside a block of
width w (64, 128, 256, 512; it has 4 w channels):

    part     stride  size       se_resnet 50 101 152   se_resnext 50 101    senet154
    -------  ------  ---------  --------------------   -----------------    ----------------------
    layer0   2       112 x 112  7x7, 64                7x7, 64              3x3, 3x3, 3x3; 128
    block                       w, w, 4w               2w, 2w in 32         2w, 4w in 64 groups,
                                                       groups, 4w           4w
    layer1   4       56 x 56    3  3   3               3  3                 3
    layer2   8       28 x 28    4  4   8               4  4                 8
    layer3   16      14 x 14    6  23  36              6  23                36
    layer4   32      7 x 7      3  3   3               3  3                 3

senet154 is of the paper's appendix; a shortcut of it that halves the size is a 3x3 convolution.

Tensor names are timm's (`legacy_se*`, `legacy_senet154`), which are those of the first conversion
of the authors' Caffe weights. Where we depart from ResNet's page: max pooling is Caffe's, whose
windows of 3 start at the map's edge and are cut at the far one, and se_resnet has its stride on the
first 1x1. Where we depart from the paper: senet154's classifier drops none of its inputs in
training (the paper's 0.2), and stages deeper than the coarsest asked stride are not built.
"""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from models.backbone import register
from models.blocks import SqueezeExcite, convolution, shortcut
from models.residual import STRIDES, Depths, ResidualBackbone

EXPANSION = 4
REDUCTION = 16


class GatedBottleneck(nn.Module):
    """1x1, 3x3, 1x1 with a gate for each channel, beside a shortcut (figure 3 and table 1).

    first, second: channels behind the first 1x1 and behind the 3x3.
    early_stride: on the first 1x1, not on the 3x3.
    shortcut_kernel: of the shortcut that halves the size.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int,
        *,
        first: int,
        second: int,
        groups: int,
        early_stride: bool,
        shortcut_kernel: int,
    ) -> None:
        super().__init__()
        out_channels = width * EXPANSION
        strides = (stride, 1) if early_stride else (1, stride)
        self.conv1 = convolution(in_channels, first, 1, stride=strides[0])
        self.bn1 = nn.BatchNorm2d(first)
        self.conv2 = convolution(first, second, 3, stride=strides[1], groups=groups)
        self.bn2 = nn.BatchNorm2d(second)
        self.conv3 = convolution(second, out_channels, 1)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.se_module = SqueezeExcite(out_channels, out_channels // REDUCTION)
        kernel = 1 if stride == 1 else shortcut_kernel
        self.downsample = shortcut(in_channels, out_channels, stride, kernel=kernel)

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] -> [N, 4 width, H / stride, W / stride]."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.se_module(self.bn3(self.conv3(y)))
        out: Tensor = self.relu(y + (x if self.downsample is None else self.downsample(x)))
        return out


class SENet(ResidualBackbone):
    """Table 1 of the paper without its pooling and classifier.

    depths: blocks of layer1 to layer4.
    inner: channels behind the first 1x1 and behind the 3x3 of a block, in its widths.
    deep: senet154's layer0 and shortcuts.
    """

    def __init__(
        self,
        depths: Depths,
        strides: Sequence[int],
        *,
        inner: tuple[int, int] = (1, 1),
        groups: int = 1,
        early_stride: bool = False,
        deep: bool = False,
    ) -> None:
        def block(in_channels: int, width: int, stride: int) -> nn.Module:
            return GatedBottleneck(
                in_channels,
                width,
                stride,
                first=inner[0] * width,
                second=inner[1] * width,
                groups=groups,
                early_stride=early_stride,
                shortcut_kernel=3 if deep else 1,
            )

        layers = [(3, 64, 3), (64, 64, 3), (64, 128, 3)] if deep else [(3, 64, 7)]
        super().__init__(
            block,
            depths,
            strides,
            expansion=EXPANSION,
            stem={
                "layer0": _layer0(layers),
                "pool0": nn.MaxPool2d(3, stride=2, ceil_mode=True),
            },
            stem_channels=layers[-1][1],
        )


def _layer0(layers: Sequence[tuple[int, int, int]]) -> nn.Sequential:
    """Convolutions (channels in and out, kernel) with norm and ReLU; the first has stride 2."""
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for number, (in_channels, out_channels, kernel) in enumerate(layers, start=1):
        stride = 2 if number == 1 else 1
        parts[f"conv{number}"] = convolution(in_channels, out_channels, kernel, stride=stride)
        parts[f"bn{number}"] = nn.BatchNorm2d(out_channels)
        parts[f"relu{number}"] = nn.ReLU(inplace=True)
    return nn.Sequential(parts)


_PAPER = "Hu et al. 2017, arXiv:1709.01507"
_WEIGHTS = "timm legacy_seresnet, legacy_senet (ImageNet)"
_LICENCE = "Apache-2.0"


@register(
    paper=_PAPER,
    input_size=(224, 224),
    parameters=26_039_024,
    multiply_adds=3_858_440_192,
    weights_origin=_WEIGHTS,
    weights_licence=_LICENCE,
)
def se_resnet50(strides: Sequence[int] = STRIDES) -> SENet:
    """resnet50 with gates."""
    return SENet((3, 4, 6, 3), strides, early_stride=True)


@register(
    paper=_PAPER,
    input_size=(224, 224),
    parameters=47_277_872,
    multiply_adds=7_572_889_600,
    weights_origin=_WEIGHTS,
    weights_licence=_LICENCE,
)
def se_resnet101(strides: Sequence[int] = STRIDES) -> SENet:
    """resnet101 with gates."""
    return SENet((3, 4, 23, 3), strides, early_stride=True)


@register(
    paper=_PAPER,
    input_size=(224, 224),
    parameters=64_772_848,
    multiply_adds=11_286_945_792,
    weights_origin=_WEIGHTS,
    weights_licence=_LICENCE,
)
def se_resnet152(strides: Sequence[int] = STRIDES) -> SENet:
    """resnet152 with gates."""
    return SENet((3, 8, 36, 3), strides, early_stride=True)


@register(
    paper=_PAPER,
    input_size=(224, 224),
    parameters=25_510_896,
    multiply_adds=4_230_946_816,
    weights_origin=_WEIGHTS,
    weights_licence=_LICENCE,
)
def se_resnext50_32x4d(strides: Sequence[int] = STRIDES) -> SENet:
    """ResNeXt-50 of 32 groups of 4 channels, with gates."""
    return SENet((3, 4, 6, 3), strides, inner=(2, 2), groups=32)


@register(
    paper=_PAPER,
    input_size=(224, 224),
    parameters=46_906_416,
    multiply_adds=7_972_691_968,
    weights_origin=_WEIGHTS,
    weights_licence=_LICENCE,
)
def se_resnext101_32x4d(strides: Sequence[int] = STRIDES) -> SENet:
    """ResNeXt-101 of 32 groups of 4 channels, with gates."""
    return SENet((3, 4, 23, 3), strides, inner=(2, 2), groups=32)


@register(
    paper=_PAPER,
    input_size=(224, 224),
    parameters=113_039_984,
    multiply_adds=20_686_315_520,
    weights_origin=_WEIGHTS,
    weights_licence=_LICENCE,
)
def senet154(strides: Sequence[int] = STRIDES) -> SENet:
    """The network that won ILSVRC 2017."""
    return SENet((3, 8, 36, 3), strides, inner=(2, 4), groups=64, deep=True)
