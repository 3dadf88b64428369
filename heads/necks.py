"""HRNet's three ways to hand on its maps, for the maps of any backbone.

Wang et al. 2019, arXiv:1908.07919, section 3.3 and figure 4:

    kind  what it returns                                                    strides
    ----  -----------------------------------------------------------------  ---------------
    v1    the finest map alone (pose)                                        4
    v2    all maps brought to the finest's size, concatenated, mixed         4
          (segmentation)
    v2p   v2, averaged down to every coarser size, a 3x3 convolution each    4, 8, 16, 32
          (detection)

A neck takes a backbone's list of maps and returns such a list, with `specs` that say what is in it.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from models.backbone import FeatureSpec
from models.blocks import MixConv2d

V2P_CHANNELS = 256
"""Width of every level of the pyramid, in the paper's detectors."""


class Neck(nn.Module):
    """Maps of a backbone -> maps for a head; specs: what comes out, map for map."""

    def __init__(self, specs: Sequence[FeatureSpec]) -> None:
        super().__init__()
        self.specs = tuple(specs)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps [N, C, h, w], finest first -> such maps."""
        raise NotImplementedError


class NeckV1(Neck):
    """The finest map alone; nothing is computed."""

    def __init__(self, specs: Sequence[FeatureSpec]) -> None:
        super().__init__(specs[:1])

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps, finest first -> the first of them."""
        return [maps[0]]


class NeckV2(Neck):
    """All maps at the finest's size, one after the other as channels, mixed by a 1x1 convolution.

    channels: of the result; None: as many as all maps have together, as in the paper.
    """

    def __init__(self, specs: Sequence[FeatureSpec], channels: int | None) -> None:
        widths = [spec.channels for spec in specs]
        channels = sum(widths) if channels is None else channels
        super().__init__([FeatureSpec(specs[0].stride, channels)])
        self.mix = mixing(widths, channels)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps, finest first -> one map of the finest's size."""
        return [self.mix(maps)]


class NeckV2p(Neck):
    """A pyramid over v2: its map, and the means of it over 2x2, 4x4, 8x8 cells.

    channels: of every level.  strides: of the levels that are made; None: all that the backbone's
    maps have. Tensor names are those of the authors' detectors; there a plain
    convolution mixes, without norm.
    """

    def __init__(
        self,
        specs: Sequence[FeatureSpec],
        channels: int | None,
        strides: Sequence[int] | None = None,
    ) -> None:
        channels = V2P_CHANNELS if channels is None else channels
        made = [spec.stride for spec in specs if strides is None or spec.stride in strides]
        super().__init__([FeatureSpec(stride, channels) for stride in made])
        self.finest = specs[0].stride
        self.reduction_conv = MixConv2d([spec.channels for spec in specs], channels, bias=True)
        self.fpn_convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in made)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps, finest first -> the levels of the asked strides."""
        finest = self.reduction_conv(maps)
        levels = []
        for spec, convolution in zip(self.specs, self.fpn_convs, strict=True):
            times = spec.stride // self.finest
            level = finest if times == 1 else F.avg_pool2d(finest, times)
            levels.append(convolution(level))
        return levels


def mixing(
    widths: Sequence[int], channels: int, *, bias: bool = False, align_corners: bool = False
) -> nn.Sequential:
    """Maps of these widths, mixed at the first one's size, normed and rectified."""
    return nn.Sequential(
        MixConv2d(widths, channels, bias=bias, align_corners=align_corners),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    )
