"""What a pose network needs before and after it, as it is usually written; shared by the peers."""

import io
import json
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from heads.load import load
from heads.network import Network

MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)

Boxes = list[list[float]]
"""[left, top, width, height] of each person, in pixels of the photograph."""


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


def boxes_of(field: str | None, width: int, height: int) -> Boxes:
    """The boxes that were sent; without any the whole photograph is one person."""
    boxes: Boxes = json.loads(field) if field else [[0, 0, width, height]]
    return boxes


def to_input(
    data: bytes, size: tuple[int, int], field: str | None
) -> tuple[npt.NDArray[np.float32], Boxes]:
    """A normalised [3, H, W] of each box of a photograph, as [N, 3, H, W], and the boxes."""
    photo = Image.open(io.BytesIO(data)).convert("RGB")
    boxes = boxes_of(field, photo.width, photo.height)
    crops = []
    for left, top, width, height in boxes:
        corners = (left, top, left + width, top + height)
        small = photo.resize((size[1], size[0]), Image.Resampling.BILINEAR, corners)
        crops.append(((np.asarray(small, np.float32) / 255 - MEAN) / STD).transpose(2, 0, 1))
    return np.stack(crops).astype(np.float32), boxes


def to_answer(heatmaps: npt.NDArray[np.float32], boxes: Boxes) -> dict[str, Any]:
    """Heatmaps [N, K, h, w] of everybody as JSON."""
    _, k, h, w = heatmaps.shape
    people = []
    for maps, (left, top, width, height) in zip(heatmaps, boxes, strict=True):
        flat = maps.reshape(k, -1)
        people.append(
            [
                [left + float(i % w) * width / w, top + float(i // w) * height / h, float(score)]
                for i, score in zip(flat.argmax(axis=1), flat.max(axis=1), strict=True)
            ]
        )
    return {"people": people}
