"""Heads that answer a class for every cell of stride 4: HRNetV2's, and a plain feature pyramid."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heads.necks import mixing
from models.backbone import FeatureSpec


class SegmentationHead(nn.Module):
    """All maps at the finest stride, concatenated, mixed, classified (arXiv:1904.04514, section 3).

    Tensor names, and the biases before a batch norm, are those of the official files.
    """

    def __init__(self, specs: Sequence[FeatureSpec], classes: int, align_corners: bool) -> None:
        super().__init__()
        widths = [spec.channels for spec in specs]
        self.last_layer = nn.Sequential(
            *mixing(widths, sum(widths), bias=True, align_corners=align_corners),
            nn.Conv2d(sum(widths), classes, kernel_size=1),
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps, finest first -> logits [N, classes, h, w] at the finest stride."""
        logits: Tensor = self.last_layer(maps)
        return logits


class FpnSegmentationHead(nn.Module):
    """A feature pyramid whose levels are added at the finest stride (arXiv:1612.03144, 1901.02446).

    From coarse to fine each map is narrowed, added to what comes from above, and smoothed; the
    smoothed levels are brought to the finest stride, added, and classified.
    """

    def __init__(self, specs: Sequence[FeatureSpec], classes: int, channels: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(spec.channels, channels, 1) for spec in specs)
        self.smooth = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, channels, 3, padding=1, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(inplace=True),
            )
            for _ in specs
        )
        self.classifier = nn.Conv2d(channels, classes, kernel_size=1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps, finest first -> logits [N, classes, h, w] at the finest stride."""
        narrow = [lateral(m) for lateral, m in zip(self.lateral, maps, strict=True)]
        for level in reversed(range(len(narrow) - 1)):
            size = narrow[level].shape[2:]
            narrow[level] = narrow[level] + F.interpolate(narrow[level + 1], size=size)
        size = narrow[0].shape[2:]
        levels = [
            F.interpolate(smooth(m), size=size, mode="bilinear", align_corners=False)
            for smooth, m in zip(self.smooth, narrow, strict=True)
        ]
        logits: Tensor = self.classifier(torch.stack(levels).sum(dim=0))
        return logits
