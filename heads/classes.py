"""Class names, and what logits mean: chances of a whole image, classes of its pixels. No torch.

ImageNet's names are those that torchvision publishes with its weights (one a line, by index).
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from heads.geometry import Crop, Size

FloatArray = npt.NDArray[np.float32]
Colour = tuple[int, int, int]


@cache
def imagenet_1k() -> tuple[str, ...]:
    """The 1000 classes of ILSVRC 2012, by index."""
    text = (Path(__file__).parent / "imagenet_1k.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())


CITYSCAPES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign",
    "vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "train",
    "motorcycle", "bicycle",
)  # fmt: skip
"""The 19 evaluated classes of Cityscapes, by training index."""


STRIP_PIXELS = 2**18
"""Of a class map so many are worked on at once: what that takes stays in the processor's cache."""


def probabilities(logits: FloatArray) -> FloatArray:
    """Softmax over the last axis."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True), dtype=np.float32)


def likeliest(logits: FloatArray, count: int) -> list[tuple[int, float]]:
    """The `count` likeliest classes of [classes] logits: index and probability, falling."""
    shares = probabilities(logits)
    order = np.argsort(-shares, kind="stable")[:count]
    return [(int(i), float(shares[i])) for i in order]


def class_map(
    logits: FloatArray, view: Crop, image_size: Size, between: Callable[[], None] = lambda: None
) -> npt.NDArray[np.uint8]:
    """The likeliest class of every image pixel, uint8 [H, W].

    logits: [classes, h, w] on a grid of equal cells over the network's input (edges on edges), at
    most 256 classes.  view: how the image was fed to the network.  between: called before each
    strip of the image, and may raise to end the work.
    """
    _, h, w = logits.shape
    height, width = image_size
    # Image pixel -> input pixel -> cell; a cell's middle is the middle of the pixels it covers.
    scale = np.array([w / view.input_size[1], h / view.input_size[0]])
    to_cells = np.column_stack(
        [view.matrix[:, :2] * scale[:, None], (view.matrix[:, 2] + 0.5) * scale - 0.5]
    )
    found = np.zeros((height, width), np.uint8)
    rows = max(1, STRIP_PIXELS // width)
    for top in range(0, height, rows):
        between()
        strip = found[top : top + rows]
        shifted = to_cells.copy()
        shifted[:, 2] += to_cells[:, 1] * top
        best = np.full(strip.shape, -np.inf, np.float32)
        for index, scores in enumerate(logits):
            full = cv2.warpAffine(
                scores,
                shifted,
                (width, len(strip)),
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_REPLICATE,
            )
            strip[full > best] = index
            np.maximum(best, full, out=best)
    return found


def count_classes(classes: npt.NDArray[np.uint8], count: int) -> npt.NDArray[np.int64]:
    """How many pixels are of each of `count` classes."""
    flat = classes.ravel()
    counts = np.zeros(count, np.int64)
    for start in range(0, flat.size, STRIP_PIXELS):  # numpy counts in numbers of 64 bits
        counts += np.bincount(flat[start : start + STRIP_PIXELS], minlength=count)
    return counts


def palette(count: int) -> tuple[Colour, ...]:
    """`count` colours that are easy to tell apart: class bits spread over the colour bits (VOC)."""
    colours = []
    for index in range(count):
        channels = [0, 0, 0]
        bits = index
        for shift in range(7, -1, -1):
            for channel in range(3):
                channels[channel] |= (bits >> channel & 1) << shift
            bits >>= 3
        colours.append((channels[0], channels[1], channels[2]))
    return tuple(colours)
