"""Heads that answer one heatmap per keypoint at stride 4: simple, fuse, deconv and pyramid.

Each reads the maps that `HEAD_STRIDES` names, finest first, and returns [N, K, h, w]. Tensor names
are those of the official files: `final_layer` and `deconv_layers`; MoveNet's for the pyramid.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from heads.center import Branch
from heads.necks import mixing
from models.backbone import FeatureSpec


class SimpleHead(nn.Module):
    """A 1x1 convolution on the stride-4 map: all that HRNet needs (arXiv:1902.09212, section 3)."""

    def __init__(self, specs: Sequence[FeatureSpec], keypoints: int) -> None:
        super().__init__()
        self.final_layer = nn.Conv2d(specs[0].channels, keypoints, kernel_size=1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Stride-4 map -> [N, K, h, w]."""
        heatmaps: Tensor = self.final_layer(maps[0])
        return heatmaps


class FuseHead(nn.Module):
    """All maps at stride 4, concatenated and mixed (HRNetV2, arXiv:1904.04514, figure 3b).

    channels: width of the mixing convolution; the paper keeps the sum of all widths.
    """

    def __init__(self, specs: Sequence[FeatureSpec], keypoints: int, channels: int) -> None:
        super().__init__()
        self.fuse = mixing([spec.channels for spec in specs], channels)
        self.final_layer = nn.Conv2d(channels, keypoints, kernel_size=1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps of strides 4, 8, 16, 32 -> [N, K, h, w]."""
        heatmaps: Tensor = self.final_layer(self.fuse(maps))
        return heatmaps


class DeconvHead(nn.Module):
    """Three 4x4 deconvolutions, each twice the size, then a 1x1 convolution.

    SimpleBaseline, arXiv:1804.06208, section 2.
    """

    def __init__(
        self, specs: Sequence[FeatureSpec], keypoints: int, channels: Sequence[int]
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = specs[0].channels
        for out in channels:
            layers += [
                nn.ConvTranspose2d(width, out, kernel_size=4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(out),
                nn.ReLU(inplace=True),
            ]
            width = out
        self.deconv_layers = nn.Sequential(*layers)
        self.final_layer = nn.Conv2d(width, keypoints, kernel_size=1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Stride-32 map -> [N, K, h, w] at stride 4."""
        heatmaps: Tensor = self.final_layer(self.deconv_layers(maps[0]))
        return heatmaps


class PyramidHead(nn.Module):
    """One branch from the finest map of a feature pyramid: CenterHead's heatmaps, alone.

    sigmoid: the answer is between 0 and 1, the shape of MoveNet's own.
    """

    def __init__(self, in_channels: int, keypoints: int, tower: int, sigmoid: bool) -> None:
        super().__init__()
        self.kpt_heatmap = Branch(in_channels, tower, keypoints)
        self.sigmoid = sigmoid

    def forward(self, features: Tensor) -> Tensor:
        """[N, in, h, w] -> [N, K, h, w]."""
        heatmaps: Tensor = self.kpt_heatmap(features)
        return heatmaps.sigmoid() if self.sigmoid else heatmaps
