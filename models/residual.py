"""The trunk that all families after ResNet share: a stem to stride 4, then four residual stages.

He et al. 2015, arXiv:1512.03385, table 1. The families differ in the block and in the stem; what a
block has inside is its own affair, so this file knows of it only how to make one.
"""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from models.backbone import Backbone, FeatureSpec
from models.blocks import convolution, initialise

STRIDES = (4, 8, 16, 32)
WIDTHS = (64, 128, 256, 512)

Depths = tuple[int, int, int, int]
MakeBlock = Callable[[int, int, int], nn.Module]


class ResidualBackbone(Backbone):
    """A stem and `layer1` to `layer4`, as deep as the coarsest asked stride needs.

    block: from input channels, width and stride to a block of width x expansion channels.
    depths: blocks of layer1 to layer4.
    stem: its parts by name, run in order: [N, 3, H, W] -> [N, stem_channels, H / 4, W / 4].
    """

    def __init__(
        self,
        block: MakeBlock,
        depths: Depths,
        strides: Sequence[int],
        *,
        expansion: int,
        stem: Mapping[str, nn.Module],
        stem_channels: int = 64,
    ) -> None:
        stages = STRIDES.index(max(strides)) + 1
        super().__init__(
            specs=[
                FeatureSpec(stride, WIDTHS[STRIDES.index(stride)] * expansion) for stride in strides
            ],
            unbuilt=[f"layer{stage}." for stage in range(stages + 1, 5)],
        )
        self.stem = tuple(stem)
        for name, part in stem.items():
            self.add_module(name, part)
        in_channels = stem_channels
        self.stages: list[str] = []
        for width, depth, stride in list(zip(WIDTHS, depths, (1, 2, 2, 2), strict=True))[:stages]:
            out_channels = width * expansion
            blocks = [block(in_channels, width, stride)]
            blocks += [block(out_channels, width, 1) for _ in range(depth - 1)]
            self.stages.append(f"layer{len(self.stages) + 1}")
            self.add_module(self.stages[-1], nn.Sequential(*blocks))
            in_channels = out_channels
        initialise(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        """[N, 3, H, W] -> the asked maps, finest first."""
        self.check_input(x)
        asked = [spec.stride for spec in self.specs]
        maps = []
        for part in self.stem:
            x = self.get_submodule(part)(x)
        for stage, stride in zip(self.stages, STRIDES, strict=False):
            x = self.get_submodule(stage)(x)
            if stride in asked:
                maps.append(x)
        return maps


def resnet_stem() -> dict[str, nn.Module]:
    """The paper's: 7x7 to 64 channels at stride 2, then 3x3 max pooling."""
    return {
        "conv1": convolution(3, 64, 7, stride=2),
        "bn1": nn.BatchNorm2d(64),
        "relu": nn.ReLU(inplace=True),
        "maxpool": nn.MaxPool2d(3, stride=2, padding=1),
    }


def deep_stem(width: int) -> dict[str, nn.Module]:
    """Three 3x3 convolutions for the 7x7, to 2 x width channels (He, T. et al., arXiv:1812.01187).

    It is the stem of their ResNet-C and -D.
    """
    convolutions = nn.Sequential(
        convolution(3, width, 3, stride=2),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        convolution(width, width, 3),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        convolution(width, 2 * width, 3),
    )
    return {**resnet_stem(), "conv1": convolutions, "bn1": nn.BatchNorm2d(2 * width)}
