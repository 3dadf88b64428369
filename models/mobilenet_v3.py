"""MobileNetV3: MobileNetV2 with gates, a cheaper activation, and a late stage that costs little.

Howard et al. 2019, "Searching for MobileNetV3", arXiv:1905.02244, section 5 and tables 1 and 2. A
search chose each block's kernel, width, gate and activation. By hand came h-swish, which is
x ReLU6(x + 3) / 6, in the coarser half, where it costs least; gates (squeeze-and-excitation) of a
quarter of the wide map; and the late stage: the 1280-wide layer stands behind the pooling, where it
sees one cell. Large, at 224 x 224:

    features  kernel  wide           channels       gate  activation  stride  output stride
    --------  ------  -------------  -------------  ----  ----------  ------  -------------
    0         3       (conv)         16             -     h-swish     2       2
    1         3       16             16             -     ReLU        1       2
    2 - 3     3       64, 72         24             -     ReLU        2, 1    4
    4 - 6     5       72, 120, 120   40             yes   ReLU        2, 1, 1 8
    7 - 10    3       240, 200, 184  80             -     h-swish     2, 1..  16
    11 - 12   3       480, 672       112            yes   h-swish     1       16
    13 - 15   5       672, 960, 960  160            yes   h-swish     2, 1, 1 32
    16        1       (conv)         960            -     h-swish     1       32

Tensor names are torchvision's. Where we depart: features.16 belongs to the classifier and is built
only when asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from models.backbone import Backbone, FeatureSpec, register
from models.blocks import Activation, ConvNorm, SqueezeExcite, initialise, scaled_channels
from models.errors import SpecError

STRIDES = (4, 8, 16, 32)
STEM_CHANNELS = 16
EPS = 1e-3  # of batch norm, as the published weights have it


@dataclass(frozen=True)
class Row:
    """A row of table 1 or 2: kernel, wide channels, output channels, gate, h-swish, stride."""

    kernel: int
    wide: int
    channels: int
    gate: bool
    hardswish: bool
    stride: int


LARGE = (
    Row(3, 16, 16, False, False, 1),
    Row(3, 64, 24, False, False, 2),
    Row(3, 72, 24, False, False, 1),
    Row(5, 72, 40, True, False, 2),
    Row(5, 120, 40, True, False, 1),
    Row(5, 120, 40, True, False, 1),
    Row(3, 240, 80, False, True, 2),
    Row(3, 200, 80, False, True, 1),
    Row(3, 184, 80, False, True, 1),
    Row(3, 184, 80, False, True, 1),
    Row(3, 480, 112, True, True, 1),
    Row(3, 672, 112, True, True, 1),
    Row(5, 672, 160, True, True, 2),
    Row(5, 960, 160, True, True, 1),
    Row(5, 960, 160, True, True, 1),
)

SMALL = (
    Row(3, 16, 16, True, False, 2),
    Row(3, 72, 24, False, False, 2),
    Row(3, 88, 24, False, False, 1),
    Row(5, 96, 40, True, True, 2),
    Row(5, 240, 40, True, True, 1),
    Row(5, 240, 40, True, True, 1),
    Row(5, 120, 48, True, True, 1),
    Row(5, 144, 48, True, True, 1),
    Row(5, 288, 96, True, True, 2),
    Row(5, 576, 96, True, True, 1),
    Row(5, 576, 96, True, True, 1),
)


class GatedResidual(nn.Module):
    """Inverted residual with an optional gate on the wide map (figure 4)."""

    def __init__(self, in_channels: int, row: Row) -> None:
        super().__init__()
        activation: Activation = nn.Hardswish if row.hardswish else nn.ReLU
        layers: list[nn.Module] = []
        if row.wide != in_channels:
            layers.append(ConvNorm(in_channels, row.wide, 1, activation=activation, eps=EPS))
        layers.append(
            ConvNorm(
                row.wide,
                row.wide,
                row.kernel,
                stride=row.stride,
                groups=row.wide,
                activation=activation,
                eps=EPS,
            )
        )
        if row.gate:
            squeezed = scaled_channels(row.wide // 4, 1.0)
            layers.append(SqueezeExcite(row.wide, squeezed, gate=nn.Hardsigmoid))
        layers.append(ConvNorm(row.wide, row.channels, 1, activation=None, eps=EPS))
        self.block = nn.Sequential(*layers)
        self.adds_input = row.stride == 1 and in_channels == row.channels

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] -> [N, channels, H / stride, W / stride]."""
        y: Tensor = self.block(x)
        return x + y if self.adds_input else y


class MobileNetV3(Backbone):
    """Table 1 or 2 of the paper without pooling and what follows.

    late: width of the layer behind the pooling.  head_conv: stride 32 is the last convolution.
    """

    def __init__(
        self, rows: Sequence[Row], *, late: int, strides: Sequence[int], head_conv: bool
    ) -> None:
        if head_conv and 32 not in strides:
            raise SpecError("MobileNetV3's last convolution is at stride 32, which was not asked")
        features: list[nn.Module] = [
            ConvNorm(3, STEM_CHANNELS, 3, stride=2, activation=nn.Hardswish, eps=EPS)
        ]
        channels, stride = STEM_CHANNELS, 2
        last_of: dict[int, tuple[int, int]] = {}
        for row in rows:
            features.append(GatedResidual(channels, row))
            channels, stride = row.channels, stride * row.stride
            last_of[stride] = (len(features) - 1, channels)
        features.append(ConvNorm(channels, 6 * channels, 1, activation=nn.Hardswish, eps=EPS))
        if head_conv:
            last_of[32] = (len(features) - 1, 6 * channels)
        taps = tuple(last_of[stride][0] for stride in strides)
        built = max(taps) + 1
        super().__init__(
            specs=[FeatureSpec(stride, last_of[stride][1]) for stride in strides],
            unbuilt=[f"features.{i}." for i in range(built, len(features))],
        )
        self.features = nn.Sequential(*features[:built])
        self.taps = taps
        self.late = late
        initialise(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        """[N, 3, H, W] -> the asked maps, finest first."""
        self.check_input(x)
        maps = []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in self.taps:
                maps.append(x)
        return maps

    def classification_layers(self, channels: int, classes: int) -> nn.Module:
        """The late stage: a wide layer on the pooled means, h-swish, dropout, and the classes."""
        return nn.Sequential(
            nn.Linear(channels, self.late),
            nn.Hardswish(),
            nn.Dropout(0.2),
            nn.Linear(self.late, classes),
        )


_PAPER = "Howard et al. 2019, arXiv:1905.02244"


@register(
    paper=_PAPER,
    input_size=(224, 224),
    parameters=2_816_432,
    multiply_adds=206_554_560,
    weights_origin="torchvision (ImageNet)",
    weights_licence="BSD-3-Clause",
    classification_options={"head_conv": True},
)
def mobilenet_v3_large(strides: Sequence[int] = STRIDES, *, head_conv: bool = False) -> MobileNetV3:
    """Table 1."""
    return MobileNetV3(LARGE, late=1280, strides=strides, head_conv=head_conv)


@register(
    paper=_PAPER,
    input_size=(224, 224),
    parameters=870_560,
    multiply_adds=52_187_072,
    weights_origin="torchvision (ImageNet)",
    weights_licence="BSD-3-Clause",
    classification_options={"head_conv": True},
)
def mobilenet_v3_small(strides: Sequence[int] = STRIDES, *, head_conv: bool = False) -> MobileNetV3:
    """Table 2."""
    return MobileNetV3(SMALL, late=1024, strides=strides, head_conv=head_conv)
