"""MobileNetV2: narrow maps between the blocks, wide and cheap depthwise work inside them.

Sandler, Howard, Zhu, Zhmoginov, Chen 2018, "MobileNetV2: Inverted Residuals and Linear
Bottlenecks", arXiv:1801.04381, section 3.3 and table 2. A depthwise 3x3 convolution costs little,
so each block widens its input six times, filters there, and projects back without an activation,
which would destroy information in a narrow map. At 224 x 224:

    features   expansion  channels  stride of the block  output stride  size
    ---------  ---------  --------  -------------------  -------------  ---------
    0          (3x3)      32        2                    2              112 x 112
    1          1          16        1                    2              112 x 112
    2 - 3      6          24        2, 1                 4              56 x 56
    4 - 6      6          32        2, 1, 1              8              28 x 28
    7 - 10     6          64        2, 1, 1, 1           16             14 x 14
    11 - 13    6          96        1, 1, 1              16             14 x 14
    14 - 16    6          160       2, 1, 1              32             7 x 7
    17         6          320       1                    32             7 x 7
    18         (1x1)      1280      1                    32             7 x 7

Tensor names are torchvision's. Where we depart: features.18 belongs to the classifier and is built
only when asked for; blocks behind the last tapped one are not built; and three options serve
weights that were trained in TensorFlow (MoveNet): `same_padding`, `norm=False` (batch norm folded
into biases) and `taps` (other blocks than the deepest of each stride).
"""

from collections.abc import Sequence

from torch import Tensor, nn

from models.backbone import Backbone, FeatureSpec, register
from models.blocks import ConvNorm, InvertedResidual, initialise, scaled_channels
from models.errors import SpecError

STRIDES = (4, 8, 16, 32)

# Table 2: expansion t, channels c, repeats n, stride s of the first
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
DEEPEST = {4: 3, 8: 6, 16: 13, 32: 17}  # output stride -> its last block
HEAD_CONV = 18
HEAD_CHANNELS = 1280


class MobileNetV2(Backbone):
    """Table 2 of the paper without its pooling and classifier; see `mobilenet_v2`."""

    def __init__(
        self,
        *,
        strides: Sequence[int],
        width_multiplier: float,
        same_padding: bool,
        norm: bool,
        head_conv: bool,
        last_channels: int | None,
        taps: Sequence[int] | None,
    ) -> None:
        if not width_multiplier > 0:
            raise SpecError(f"width_multiplier must be positive, got {width_multiplier}")
        taps = _checked_taps(strides, taps, head_conv)
        channels = scaled_channels(32, width_multiplier)
        widths = [channels]
        features: list[nn.Module] = [
            ConvNorm(
                3,
                channels,
                3,
                stride=2,
                norm=norm,
                activation=nn.ReLU6,
                same_padding=same_padding,
            )
        ]
        for expansion, published, repeats, first_stride in STAGES:
            out_channels = scaled_channels(published, width_multiplier)
            for repeat in range(repeats):
                features.append(
                    InvertedResidual(
                        channels,
                        out_channels,
                        stride=first_stride if repeat == 0 else 1,
                        expansion=expansion,
                        norm=norm,
                        same_padding=same_padding,
                    )
                )
                channels = out_channels
                widths.append(channels)
        if last_channels is None:  # the paper widens this one but does not narrow it
            last_channels = scaled_channels(HEAD_CHANNELS, max(1.0, width_multiplier))
        features.append(ConvNorm(channels, last_channels, 1, norm=norm, activation=nn.ReLU6))
        widths.append(last_channels)

        built = max(taps) + 1
        super().__init__(
            specs=[
                FeatureSpec(stride, widths[tap]) for stride, tap in zip(strides, taps, strict=True)
            ],
            unbuilt=[f"features.{block}." for block in range(built, len(features))],
        )
        self.features = nn.Sequential(*features[:built])
        self.taps = taps
        initialise(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        """[N, 3, H, W] -> the asked maps, finest first; features.17 and before are linear."""
        self.check_input(x)
        maps = []
        for block, layer in enumerate(self.features):
            x = layer(x)
            if block in self.taps:
                maps.append(x)
        return maps


def _checked_taps(
    strides: Sequence[int], taps: Sequence[int] | None, head_conv: bool
) -> tuple[int, ...]:
    """The tapped block for each stride."""
    if head_conv and 32 not in strides:
        raise SpecError("mobilenet_v2's head convolution is at stride 32, which was not asked for")
    if taps is None:
        deepest = {**DEEPEST, 32: HEAD_CONV} if head_conv else DEEPEST
        return tuple(deepest[stride] for stride in strides)
    if head_conv and HEAD_CONV not in taps:
        raise SpecError(f"taps {list(taps)} leave out the head convolution, block {HEAD_CONV}")
    at_stride = [_output_stride(tap) for tap in taps]
    if at_stride != list(strides):
        raise SpecError(
            f"mobilenet_v2's taps must be one block for each of the strides {list(strides)}; "
            f"blocks {list(taps)} have strides {at_stride}"
        )
    return tuple(taps)


def _output_stride(block: int) -> int | None:
    """Of features.block; None where there is no such block, or it is finer than stride 4."""
    if block in (0, 1):
        return None
    last_blocks = {**DEEPEST, 32: HEAD_CONV}
    return next((stride for stride, last in last_blocks.items() if 1 < block <= last), None)


@register(
    paper="Sandler et al. 2018, arXiv:1801.04381",
    input_size=(224, 224),
    parameters=1_811_712,
    multiply_adds=279_423_872,
    weights_origin="torchvision (ImageNet)",
    weights_licence="BSD-3-Clause",
    classification_options={"head_conv": True},
)
def mobilenet_v2(
    strides: Sequence[int] = STRIDES,
    *,
    width_multiplier: float = 1.0,
    same_padding: bool = False,
    norm: bool = True,
    head_conv: bool = False,
    last_channels: int | None = None,
    taps: Sequence[int] | None = None,
) -> MobileNetV2:
    """MobileNetV2 at any width.

    same_padding: zeros as TensorFlow puts them: none at the top and left where the stride is 2.
    norm: False builds the folded form: biases in the convolutions, no batch norm.
    head_conv: stride 32 is features.18, the classifier's convolution, not features.17.
    last_channels: its width; None: 1280 x max(1, width_multiplier), as published.
    taps: the block whose output is returned, one for each stride; None: the deepest of each.
    """
    return MobileNetV2(
        strides=strides,
        width_multiplier=width_multiplier,
        same_padding=same_padding,
        norm=norm,
        head_conv=head_conv,
        last_channels=last_channels,
        taps=taps,
    )
