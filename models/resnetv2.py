"""ResNet v2: norm and ReLU before each convolution, so that nothing stands in the way of x.

He, Zhang, Ren, Sun 2016, "Identity Mappings in Deep Residual Networks", arXiv:1603.05027, section 4
and figure 4e. In ResNet a ReLU follows each addition; here the sum goes on as it is, and each block
normalises its own input. The sums grow from block to block, hence one more norm and ReLU behind the
last. Stages and widths are ResNet's, at 224 x 224:

    part      stride  size       width  18 34  (two 3x3)       50 101 152  (1x1, 3x3, 1x1 to 4x)
    --------  ------  ---------  -----  ---------------------  ----------------------------------
    stem      4       56 x 56    64     7x7 and 3x3 max pooling, without norm or ReLU
    stages.0  4       56 x 56    64     2  3                   3  3   3
    stages.1  8       28 x 28    128    2  4                   4  4   8
    stages.2  16      14 x 14    256    2  6                   6  23  36
    stages.3  32      7 x 7      512    2  3                   3  3   3
    norm      32      7 x 7      512    norm and ReLU

Tensor names are timm's. The map of stride 32 is what `norm` gives, which the classifier reads; the
finer ones are sums as they are, of both signs. Where we depart from the paper, as timm's weights
need: the first norm and ReLU are behind the max pooling, not before it; the stride of a Bottleneck
is on its 3x3; 18 and 34 are timm's. What lies deeper than the coarsest asked stride is not built.
"""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from models.backbone import Backbone, FeatureSpec, register
from models.blocks import convolution, initialise
from models.residual import STRIDES, WIDTHS, Depths


class PreActivationBlock(nn.Module):
    """Convolutions with norm and ReLU before each, beside an identity (figure 4e).

    kernels: of the convolutions, each `width` wide but the last.
    The first block of a stage has a 1x1 convolution for its shortcut where the shape changes; it
    reads the normalised input, as the first convolution does.
    """

    def __init__(
        self, in_channels: int, width: int, out_channels: int, stride: int, kernels: Sequence[int]
    ) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride > 1 or in_channels != out_channels:
            conv = convolution(in_channels, out_channels, 1, stride=stride)
            self.downsample = nn.Sequential(OrderedDict(conv=conv))
        strided = kernels.index(3)
        self.layers: list[tuple[str, str]] = []
        for number, kernel in enumerate(kernels):
            channels = out_channels if number == len(kernels) - 1 else width
            norm, conv_name = f"norm{number + 1}", f"conv{number + 1}"
            self.add_module(norm, nn.BatchNorm2d(in_channels))
            self.add_module(
                conv_name,
                convolution(
                    in_channels, channels, kernel, stride=stride if number == strided else 1
                ),
            )
            self.layers.append((norm, conv_name))
            in_channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] -> [N, out_channels, H / stride, W / stride]."""
        beside, y = x, x
        for norm, conv in self.layers:
            y = self.relu(self.get_submodule(norm)(y))
            if norm == "norm1" and self.downsample is not None:
                beside = self.downsample(y)
            y = self.get_submodule(conv)(y)
        return beside + y


class ResNetV2(Backbone):
    """The paper's network without its pooling and classifier.

    depths: blocks of stages.0 to stages.3.
    bottleneck: 1x1, 3x3, 1x1 to 4 x width; else two 3x3.
    """

    def __init__(
        self, depths: Depths, strides: Sequence[int] = STRIDES, *, bottleneck: bool = True
    ) -> None:
        built = STRIDES.index(max(strides)) + 1
        kernels, expansion = ((1, 3, 1), 4) if bottleneck else ((3, 3), 1)
        super().__init__(
            specs=[
                FeatureSpec(stride, WIDTHS[STRIDES.index(stride)] * expansion) for stride in strides
            ],
            unbuilt=[
                *(f"stages.{stage}." for stage in range(built, 4)),
                *(["norm."] if built < 4 else []),
            ],
        )
        self.stem = nn.Sequential(
            OrderedDict(
                conv=convolution(3, 64, 7, stride=2),
                pool=nn.MaxPool2d(3, stride=2, padding=1),
            )
        )
        in_channels = 64
        self.stages = nn.ModuleList()
        for width, depth, stride in list(zip(WIDTHS, depths, (1, 2, 2, 2), strict=True))[:built]:
            out_channels = width * expansion
            blocks = [PreActivationBlock(in_channels, width, out_channels, stride, kernels)]
            blocks += [
                PreActivationBlock(out_channels, width, out_channels, 1, kernels)
                for _ in range(depth - 1)
            ]
            self.stages.append(nn.Sequential(OrderedDict(blocks=nn.Sequential(*blocks))))
            in_channels = out_channels
        self.norm = nn.BatchNorm2d(in_channels) if built == 4 else None
        self.relu = nn.ReLU(inplace=True)
        initialise(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        """[N, 3, H, W] -> the asked maps, finest first."""
        self.check_input(x)
        asked = [spec.stride for spec in self.specs]
        maps = []
        x = self.stem(x)  # stride 4
        for stage, stride in zip(self.stages, STRIDES, strict=False):
            x = stage(x)
            if stride == 32 and self.norm is not None:
                x = self.relu(self.norm(x))
            if stride in asked:
                maps.append(x)
        return maps


_PAPER = "He et al. 2016, arXiv:1603.05027"
_TIMM = "timm (ImageNet)"
_NONE = "none published"
_LICENCE = "Apache-2.0"


@register(
    paper=_PAPER,
    input_size=(224, 224),
    parameters=11_174_720,
    multiply_adds=1_813_561_344,
    weights_origin=_TIMM,
    weights_licence=_LICENCE,
)
def resnetv2_18(strides: Sequence[int] = STRIDES) -> ResNetV2:
    """8 blocks of two 3x3."""
    return ResNetV2((2, 2, 2, 2), strides, bottleneck=False)


@register(
    paper=_PAPER,
    input_size=(224, 224),
    parameters=21_282_880,
    multiply_adds=3_663_249_408,
    weights_origin=_TIMM,
    weights_licence=_LICENCE,
)
def resnetv2_34(strides: Sequence[int] = STRIDES) -> ResNetV2:
    """16 blocks of two 3x3."""
    return ResNetV2((3, 4, 6, 3), strides, bottleneck=False)


@register(
    paper=_PAPER,
    input_size=(224, 224),
    parameters=23_500_352,
    multiply_adds=4_087_136_256,
    weights_origin=_TIMM,
    weights_licence=_LICENCE,
)
def resnetv2_50(strides: Sequence[int] = STRIDES) -> ResNetV2:
    """16 Bottlenecks."""
    return ResNetV2((3, 4, 6, 3), strides)


@register(
    paper=_PAPER,
    input_size=(224, 224),
    parameters=42_492_480,
    multiply_adds=7_799_357_440,
    weights_origin=_TIMM,
    weights_licence=_LICENCE,
)
def resnetv2_101(strides: Sequence[int] = STRIDES) -> ResNetV2:
    """33 Bottlenecks."""
    return ResNetV2((3, 4, 23, 3), strides)


@register(
    paper=_PAPER,
    input_size=(224, 224),
    parameters=58_136_128,
    multiply_adds=11_511_578_624,
    weights_origin=_NONE,
    weights_licence=_NONE,
)
def resnetv2_152(strides: Sequence[int] = STRIDES) -> ResNetV2:
    """50 Bottlenecks."""
    return ResNetV2((3, 8, 36, 3), strides)
