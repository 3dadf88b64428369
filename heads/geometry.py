"""Where a pixel is: boxes, crops, heatmap cells and mirrors. THE place that knows half a pixel.

Every point is (x, y) and counts pixel centres: (0, 0) is the centre of the top-left pixel of the
upright image, (width - 1, height - 1) that of the bottom-right one. Three frames follow each other:

    image pixels --Crop.matrix--> input pixels --cells--> heatmap cells

An alignment says how the last two are laid over each other:

- `udp` (arXiv:1911.07524): first centre on first centre, last on last, for crop and heatmap alike:
  scale (pixels - 1) / (cells - 1). Exact, and a mirrored crop has mirrored points.
- `legacy` (the official HRNet code): the middle of the crop lies on input point (W / 2, H / 2) and
  a cell is `stride` pixels. Half a cell is lost when mirrored; official weights were trained so.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import numpy.typing as npt

from models.errors import ShapeError

Alignment = Literal["udp", "legacy"]
Size = tuple[int, int]
"""(height, width)."""
Matrix = npt.NDArray[np.float64]
"""[2, 3] affine map of points: [x', y'] = m[:, :2] @ [x, y] + m[:, 2]."""
Points = npt.NDArray[np.floating]
"""[..., 2] as (x, y)."""

BOX_PADDING = 1.25
"""A crop shows this much more than its box, so that no limb is cut (official HRNet code)."""


def antialiased(alignment: Alignment) -> bool:
    """Whether a person's crop averages where it shows less than half of the pixels; see `warp`.

    The official bilinear crop is part of what `legacy` reproduces.
    """
    return alignment != "legacy"


@dataclass(frozen=True, eq=False)
class Crop:
    """A view of an image: the map from image pixels to the pixels of a network's input.

    matrix: [2, 3] float64, image -> input.  input_size: (height, width).
    """

    matrix: Matrix
    input_size: Size

    @classmethod
    def around(
        cls,
        box_xywh: Sequence[float],
        input_size: Size,
        *,
        alignment: Alignment = "udp",
        padding: float = BOX_PADDING,
        rotation_deg: float = 0.0,
    ) -> Self:
        """The crop of one person: box widened to the input's shape, times `padding`, turned."""
        height, width = input_size
        center, (box_width, box_height) = padded_box(box_xywh, width / height, padding)
        if alignment == "udp":
            scale_x, scale_y = (width - 1) / box_width, (height - 1) / box_height
            middle = ((width - 1) / 2, (height - 1) / 2)
        else:
            # The official code derives one scale, from the widths.
            scale_x = scale_y = width / box_width
            middle = (width / 2, height / 2)
        return cls(_about(center, (scale_x, scale_y), rotation_deg, middle), input_size)

    @classmethod
    def letterbox(cls, image_size: Size, short_side: int, *, multiple: int, max_long: int) -> Self:
        """The whole image, its short side scaled to `short_side`, padded to whole `multiple`s.

        The image lies at the top left; the long side is at most `max_long`, so a panorama shrinks.
        """
        height, width = image_size
        scale = min(short_side / min(height, width), max_long / max(height, width))
        rows, columns = (max(1, round(side * scale)) for side in (height, width))
        # Edges fall on edges: (x + 1/2) * scale - 1/2.
        scale_x, scale_y = columns / width, rows / height
        matrix = np.array(
            [[scale_x, 0, (scale_x - 1) / 2], [0, scale_y, (scale_y - 1) / 2]], dtype=np.float64
        )
        padded = tuple(math.ceil(side / multiple) * multiple for side in (rows, columns))
        return cls(matrix, (padded[0], padded[1]))

    @classmethod
    def middle(cls, image_size: Size, input_size: Size, share: float) -> Self:
        """The middle of an image in the input's shape; `share` of its tighter side is shown."""
        height, width = image_size
        scale = max(input_size[0] / height, input_size[1] / width) / share
        offsets = [
            (shown - 1) / 2 - scale * (whole - 1) / 2
            for shown, whole in ((input_size[1], width), (input_size[0], height))
        ]
        matrix = np.array([[scale, 0, offsets[0]], [0, scale, offsets[1]]], dtype=np.float64)
        return cls(matrix, input_size)

    @property
    def scale(self) -> float:
        """Input pixels an image pixel, the geometric mean of both axes."""
        return math.sqrt(abs(_determinant(self.matrix)))

    def to_input(self, points: Points) -> Points:
        """Image pixels -> input pixels."""
        return transform(points, self.matrix)

    def to_image(self, points: Points) -> Points:
        """Input pixels -> image pixels."""
        return transform(points, inverse(self.matrix))

    def mirrored(self) -> Self:
        """The same view in a mirror: input column x becomes width - 1 - x."""
        flip = np.array([[-1.0, 0.0, self.input_size[1] - 1.0], [0.0, 1.0, 0.0]])
        return type(self)(compose(flip, self.matrix), self.input_size)


def padded_box(
    box_xywh: Sequence[float], aspect: float, padding: float
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Centre (x, y) and size (width, height) of a box widened to `aspect` = width / height.

    The shorter side grows, never the longer one shrinks; then both grow by `padding`. Raises
    ShapeError for a box that has neither width nor height.
    """
    left, top, width, height = (float(value) for value in box_xywh)
    if not max(width, height) > 0:
        raise ShapeError(f"a box without width and height has no crop: {list(box_xywh)}")
    center = (left + width / 2, top + height / 2)
    if width > aspect * height:
        height = width / aspect
    else:
        width = height * aspect
    return center, (width * padding, height * padding)


def _about(
    center: tuple[float, float],
    scale: tuple[float, float],
    rotation_deg: float,
    middle: tuple[float, float],
) -> Matrix:
    """Map that takes `center` to `middle`, turned by rotation_deg and scaled by axis."""
    angle = math.radians(rotation_deg)
    cos, sin = math.cos(angle), math.sin(angle)
    turn = np.array([[cos, sin], [-sin, cos]]) * np.array(scale)[:, None]
    offset = np.array(middle) - turn @ np.array(center)
    return np.column_stack([turn, offset])


def transform(points: Points, matrix: Matrix) -> Points:
    """[..., 2] points through a [2, 3] map; keeps their dtype."""
    points = np.asarray(points)
    if points.shape[-1:] != (2,):
        raise ShapeError(f"points are [..., 2] as (x, y); got shape {points.shape}")
    moved = points @ matrix[:, :2].T + matrix[:, 2]
    return moved.astype(points.dtype if points.dtype.kind == "f" else np.float64)


def inverse(matrix: Matrix) -> Matrix:
    """The map back. A crop has a positive scale, so there always is one."""
    (a, b, x), (c, d, y) = matrix.tolist()
    back = np.array([[d, -b, b * y - d * x], [-c, a, c * x - a * y]])
    return np.asarray(back / _determinant(matrix))


def _determinant(matrix: Matrix) -> float:
    (a, b, _), (c, d, _) = matrix.tolist()
    return float(a * d - b * c)


def compose(outer: Matrix, inner: Matrix) -> Matrix:
    """The map that does `inner` first, then `outer`."""
    both = outer[:, :2] @ inner
    both[:, 2] += outer[:, 2]
    return both


def reduced(matrix: Matrix, factor: int) -> Matrix:
    """The map for an image made `factor` times smaller by averaging factor x factor pixels."""
    # A small pixel's centre lies in the middle of the pixels that it averages.
    grow = np.array(
        [[factor, 0, (factor - 1) / 2], [0, factor, (factor - 1) / 2]], dtype=np.float64
    )
    return compose(matrix, grow)


def cell_scale(
    input_size: Size, heatmap_size: Size, alignment: Alignment
) -> npt.NDArray[np.float64]:
    """Input pixels a heatmap cell, as (x, y); both frames share their zero."""
    pixels = np.array(input_size[::-1], dtype=np.float64)
    cells = np.array(heatmap_size[::-1], dtype=np.float64)
    return (pixels - 1) / (cells - 1) if alignment == "udp" else pixels / cells


def flip_points(points: Points, width: int, flip_order: Sequence[int]) -> Points:
    """[..., K, 2] points of the mirrored image: x -> width - 1 - x, left and right swapped."""
    mirrored = np.array(points)
    mirrored[..., 0] = width - 1 - mirrored[..., 0]
    return mirrored[..., list(flip_order), :]


def flip_heatmaps(
    heatmaps: npt.NDArray[np.float32], flip_order: Sequence[int], alignment: Alignment = "udp"
) -> npt.NDArray[np.float32]:
    """[..., K, h, w] maps of a mirrored crop, as if it had not been mirrored.

    `legacy` also moves them one cell to the right (the first column stays), because there a
    mirrored crop lies `stride - 1` input pixels off; the official code does the same.
    """
    flipped = heatmaps[..., list(flip_order), :, ::-1]
    if alignment == "udp":
        return flipped
    shifted = flipped.copy()
    shifted[..., 1:] = flipped[..., :-1]
    return shifted


def clip_box(box_xywh: Sequence[float], image_size: Size) -> tuple[float, float, float, float]:
    """The part of a box that lies in the image; width or height is 0 where nothing does."""
    left, top, width, height = (float(value) for value in box_xywh)
    x0, y0 = (
        min(max(start, 0.0), side) for start, side in ((left, image_size[1]), (top, image_size[0]))
    )
    x1 = min(max(left + width, 0.0), image_size[1])
    y1 = min(max(top + height, 0.0), image_size[0])
    return (x0, y0, max(0.0, x1 - x0), max(0.0, y1 - y0))
