"""MobileNet: a convolution split into filtering each channel and mixing the channels.

Howard, Zhu, Chen, Kalenichenko, Wang, Weyand, Andreetto, Adam 2017, "MobileNets: Efficient
Convolutional Neural Networks for Mobile Vision Applications", arXiv:1704.04861, sections 3.1 to 3.3
and table 1. A 3x3 convolution filters and mixes in one go; done one after the other, by a depthwise
3x3 and a 1x1 convolution, the same job costs 1/N + 1/9 of it, N being the channels that come out.
Two numbers trade the rest: the width multiplier thins every layer, and the resolution falls with
the input; the cost falls with about the square of either. At 224 x 224:

    features   what           channels  stride of the block  output stride  size
    ---------  -------------  --------  -------------------  -------------  ---------
    0          3x3            32        2                    2              112 x 112
    1          separable      64        1                    2              112 x 112
    2 - 3      separable      128       2, 1                 4              56 x 56
    4 - 5      separable      256       2, 1                 8              28 x 28
    6 - 11     separable      512       2, then 1            16             14 x 14
    12 - 13    separable      1024      2, 1                 32             7 x 7

Tensor names are our own, numbered as in MobileNetV2; `weights` renames those of pytorchcv. Where we
depart: table 1 prints stride 2 for the last depthwise layer but keeps its size of 7 x 7; it has
stride 1 here, as in every implementation.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from models.backbone import Backbone, FeatureSpec, register
from models.blocks import ConvNorm, initialise, scaled_channels
from models.errors import SpecError

STRIDES = (4, 8, 16, 32)

STEM_CHANNELS = 32
# Table 1, a row a block: channels that come out, stride of the depthwise convolution
BLOCKS = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *[(512, 1)] * 5,
    (1024, 2),
    (1024, 1),
)
DEEPEST = {4: 3, 8: 5, 16: 11, 32: 13}  # output stride -> its last block


class DepthwiseSeparable(nn.Module):
    """A 3x3 for each channel alone, then a 1x1 over all of them (figure 3 right)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.depthwise = ConvNorm(in_channels, in_channels, 3, stride=stride, groups=in_channels)
        self.pointwise = ConvNorm(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] -> [N, out_channels, H / stride, W / stride]."""
        y: Tensor = self.pointwise(self.depthwise(x))
        return y


class MobileNetV1(Backbone):
    """Table 1 of the paper without its pooling and classifier; see `mobilenet_v1`."""

    def __init__(self, *, strides: Sequence[int], width_multiplier: float) -> None:
        if not width_multiplier > 0:
            raise SpecError(f"width_multiplier must be positive, got {width_multiplier}")
        widths = [scaled_channels(STEM_CHANNELS, width_multiplier)]
        widths += [scaled_channels(published, width_multiplier) for published, _ in BLOCKS]
        taps = [DEEPEST[stride] for stride in strides]
        built = max(taps) + 1
        super().__init__(
            specs=[
                FeatureSpec(stride, widths[tap]) for stride, tap in zip(strides, taps, strict=True)
            ],
            unbuilt=[f"features.{block}." for block in range(built, len(widths))],
        )
        features: list[nn.Module] = [ConvNorm(3, widths[0], 3, stride=2)]
        for block in range(1, built):
            _, stride = BLOCKS[block - 1]
            features.append(DepthwiseSeparable(widths[block - 1], widths[block], stride))
        self.features = nn.Sequential(*features)
        self.taps = tuple(taps)
        initialise(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        """[N, 3, H, W] -> the asked maps, finest first."""
        self.check_input(x)
        maps = []
        for block, layer in enumerate(self.features):
            x = layer(x)
            if block in self.taps:
                maps.append(x)
        return maps


@register(
    paper="Howard et al. 2017, arXiv:1704.04861",
    input_size=(224, 224),
    parameters=3_206_976,
    multiply_adds=567_716_352,
    weights_origin="pytorchcv (ImageNet)",
    weights_licence="MIT",
)
def mobilenet_v1(strides: Sequence[int] = STRIDES, *, width_multiplier: float = 1.0) -> MobileNetV1:
    """MobileNet at any width; the paper measures 1.0, 0.75, 0.5 and 0.25."""
    return MobileNetV1(strides=strides, width_multiplier=width_multiplier)
