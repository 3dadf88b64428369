"""What a pose network needs before and after it, as it is usually written; shared by the peers."""

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from heads.load import load
from heads.network import Network

MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)


class Plain(torch.nn.Module):
    """The network as it is trained: normalised float32 [N, 3, H, W] -> heatmaps."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.network: Network = load(name).eval()
        self.size: tuple[int, int] = self.network.spec.input_size

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Heatmaps [N, K, h, w]."""
        heatmaps: torch.Tensor = self.network(images)
        return heatmaps


def to_input(data: bytes, size: tuple[int, int]) -> tuple[npt.NDArray[np.float32], tuple[int, int]]:
    """A normalised [3, H, W] of the whole photograph, and the photograph's (width, height)."""
    photo = Image.open(io.BytesIO(data)).convert("RGB")
    small = np.asarray(photo.resize((size[1], size[0]), Image.Resampling.BILINEAR), np.float32)
    array = np.asarray((small / 255 - MEAN) / STD, np.float32).transpose(2, 0, 1)
    return array, photo.size


def to_answer(heatmaps: npt.NDArray[np.float32], size: tuple[int, int]) -> dict[str, Any]:
    """One person's heatmaps [K, h, w] as JSON; size: the photograph's (width, height)."""
    k, h, w = heatmaps.shape
    best = heatmaps.reshape(k, -1).argmax(axis=1)
    scores = heatmaps.reshape(k, -1).max(axis=1)
    return {
        "keypoints": [
            [float(i % w) * size[0] / w, float(i // w) * size[1] / h, float(score)]
            for i, score in zip(best, scores, strict=True)
        ]
    }
