"""Pooling and classes: the classifier of any backbone, as its paper has it."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from models.backbone import Backbone

Pool = Literal["avg", "max", "avgmax"]


class ClassificationHead(nn.Module):
    """Pools the last map over its cells and classifies what is left.

    channels: of the map.  pool: mean, maximum, or both one after the other, of each channel.
    What stands behind the pooling belongs to the architecture; mostly one linear layer.
    """

    def __init__(self, backbone: Backbone, channels: int, classes: int, pool: Pool) -> None:
        super().__init__()
        self.pool = pool
        width = 2 * channels if pool == "avgmax" else channels
        self.classifier = backbone.classification_layers(width, classes)

    def forward(self, x: Tensor | Sequence[Tensor]) -> Tensor:
        """[N, C, h, w], or maps of which the coarsest counts -> logits [N, classes]."""
        last = x if isinstance(x, Tensor) else x[-1]
        parts = []
        if self.pool != "max":
            parts.append(last.mean(dim=(2, 3)))
        if self.pool != "avg":
            parts.append(last.amax(dim=(2, 3)))
        logits: Tensor = self.classifier(torch.cat(parts, dim=1))
        return logits
