"""Keypoints to heatmaps and back: encode and decode side by side, in numpy.

Axes: N person, K keypoint, h w heatmap cell. Points are (x, y) in pixels of the network's input
(see geometry). Everything is vectorised over people and keypoints.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from heads.geometry import Alignment, Size, cell_scale
from models.errors import ShapeError

FloatArray = npt.NDArray[np.float32]
Refine = Literal["none", "quarter", "dark"]

_REACH = 3
"""A Gaussian is cut off this many sigmas from its peak (official HRNet code)."""

_EPSILON = float(np.finfo(np.float32).eps)
"""Keeps a flat map's Hessian invertible (mmpose does the same)."""

FARTHEST_STEP = 3.0
"""Cells that DARK may move a point from its peak cell."""


@dataclass(frozen=True)
class HeatmapCodec:
    """One Gaussian per keypoint (Tompson et al. 2014, arXiv:1406.2984; HRNet, arXiv:1902.09212).

    input_size, heatmap_size: (height, width) in pixels and in cells.
    alignment: `udp` puts the Gaussian exactly on the point, `legacy` on the nearest cell.
    sigma: spread in cells.
    refine: how decode finds the fraction of a cell. `quarter`: a quarter towards the higher
        neighbour; `dark`: one Newton step on the log of the blurred map (arXiv:1910.06278).
    unbiased: with `legacy`, targets exactly on the point and not cut off (DARK, section 3.2).
    blur_kernel: side of DARK's Gaussian blur in cells, odd.
    """

    input_size: Size
    heatmap_size: Size
    alignment: Alignment = "udp"
    sigma: float = 2.0
    refine: Refine = "dark"
    unbiased: bool = False
    blur_kernel: int = 11

    def encode(
        self, points: npt.NDArray[np.floating], visibility: npt.NDArray[np.floating]
    ) -> tuple[FloatArray, FloatArray]:
        """Target maps [..., K, h, w] with peaks of height 1, and weights [..., K].

        points: [..., K, 2] input pixels.  visibility: [..., K], 0 where not labelled.
        A point without a label or a place, or so far outside that its Gaussian does not touch the
        map, gets an empty map and weight 0.
        """
        points = np.asarray(points, dtype=np.float64)
        if points.shape[-1:] != (2,) or points.shape[:-1] != np.shape(visibility):
            raise ShapeError(
                f"points [..., K, 2] and visibility [..., K] do not fit: "
                f"{points.shape} and {np.shape(visibility)}"
            )
        known = (np.asarray(visibility) > 0) & np.isfinite(points).all(axis=-1)
        points = np.where(known[..., None], points, 0.0)
        cells = points / cell_scale(self.input_size, self.heatmap_size, self.alignment)
        # Towards zero, as the official code rounds; the window is laid round this cell.
        nearest = np.trunc(cells + 0.5)
        reach = _REACH * self.sigma
        sides = np.array(self.heatmap_size[::-1], dtype=np.float64)
        low, high = nearest - reach, nearest + reach + 1
        if self.unbiased:
            low, high = cells - reach, cells + reach + 1
        # The official code counts what misses the map by no more than its first row or column.
        reaches = high >= 0 if self.alignment == "legacy" else high > 0
        touches = ((low < sides) & reaches).all(axis=-1)
        weights = (known & touches).astype(np.float32)

        peak = nearest if self.alignment == "legacy" and not self.unbiased else cells
        along = []
        for axis, side in ((1, self.heatmap_size[0]), (0, self.heatmap_size[1])):
            positions = np.arange(side, dtype=np.float64)
            gauss = np.exp(-((positions - peak[..., axis, None]) ** 2) / (2 * self.sigma**2))
            if not self.unbiased:
                gauss *= np.abs(positions - nearest[..., axis, None]) <= reach
            along.append(gauss)
        rows, columns = along  # [..., K, h], [..., K, w]
        maps = rows[..., :, None] * columns[..., None, :] * weights[..., None, None]
        return maps.astype(np.float32), weights

    def decode(self, heatmaps: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Points [N, K, 2] in input pixels and scores [N, K], the heights of the peaks.

        heatmaps: [N, K, h, w]; higher means likelier. Where no cell is above 0 the point is (0, 0).
        """
        if heatmaps.ndim != 4 or heatmaps.shape[2:] != tuple(self.heatmap_size):
            raise ShapeError(
                f"heatmaps are [N, K, {self.heatmap_size[0]}, {self.heatmap_size[1]}]; "
                f"got {heatmaps.shape}"
            )
        n, k, h, w = heatmaps.shape
        maps = np.ascontiguousarray(heatmaps, dtype=np.float32).reshape(n * k, h, w)
        index = maps.reshape(n * k, h * w).argmax(axis=1)
        ys, xs = index // w, index % w
        scores = maps[np.arange(n * k), ys, xs]
        found = scores > 0
        cells = np.stack([xs, ys], axis=1).astype(np.float64)
        if self.refine == "quarter":
            cells += _quarter(maps, xs, ys)
        elif self.refine == "dark":
            cells += self._dark(maps, xs, ys)
        points = cells * cell_scale(self.input_size, self.heatmap_size, self.alignment)
        points[~found] = 0
        return points.reshape(n, k, 2).astype(np.float32), scores.reshape(n, k)

    def _dark(
        self, maps: FloatArray, xs: npt.NDArray[np.intp], ys: npt.NDArray[np.intp]
    ) -> npt.NDArray[np.float64]:
        """Newton step [M, 2] from the peak cell to the maximum of the log of the blurred map."""
        if self.alignment == "legacy":
            near = _blurred_neighbourhood(maps, xs, ys, self.blur_kernel, fade=True)
            return _newton_legacy(near, xs, ys, maps.shape[1:])
        # At the border the stencil lies round the next cell inside.
        h, w = maps.shape[1:]
        inner_x, inner_y = xs.clip(1, max(1, w - 2)), ys.clip(1, max(1, h - 2))
        near = _blurred_neighbourhood(maps, inner_x, inner_y, self.blur_kernel, fade=False)
        differences = close_differences(np.log(near.clip(0.001, 50)))
        aside = np.stack([inner_x - xs, inner_y - ys], axis=1)
        step = _newton(*differences) + aside
        # Of a peak beyond the border only the foot is seen: where that is no longer a hill, Newton
        # goes to the valley behind it.
        step[aside.any(axis=1) & ~is_hill(*differences[2:])] = 0
        # On a noisy, nearly flat map Newton's step can be anything; a blur moves a peak by less.
        return np.asarray(step.clip(-FARTHEST_STEP, FARTHEST_STEP))


def _quarter(
    maps: FloatArray, xs: npt.NDArray[np.intp], ys: npt.NDArray[np.intp]
) -> npt.NDArray[np.float64]:
    """A quarter of a cell towards the higher neighbour; none next to the border (official code)."""
    count, h, w = maps.shape
    inside = (xs > 1) & (xs < w - 1) & (ys > 1) & (ys < h - 1)
    x, y, each = np.where(inside, xs, 1), np.where(inside, ys, 1), np.arange(count)
    # A map of one cell across has no inside at all; clamping keeps the look-up legal.
    right, below = np.minimum(x + 1, w - 1), np.minimum(y + 1, h - 1)
    step = np.stack(
        [
            np.sign(maps[each, y, right] - maps[each, y, x - 1]),
            np.sign(maps[each, below, x] - maps[each, y - 1, x]),
        ],
        axis=1,
    )
    return np.asarray(0.25 * step.astype(np.float64) * inside[:, None])


def _blurred_neighbourhood(
    maps: FloatArray,
    xs: npt.NDArray[np.intp],
    ys: npt.NDArray[np.intp],
    kernel: int,
    *,
    fade: bool,
) -> npt.NDArray[np.float64]:
    """The 5 x 5 cells round (xs, ys) of the blurred maps, [M, 5, 5], without blurring the rest.

    fade: blurs everywhere with zeros outside the map, so it fades towards the border (mmpose);
        otherwise an axis along which the blur would reach over the border is left as it is, which
        keeps a peak there in its place.
    The result is scaled back to the height of the unblurred peak.
    """
    radius = kernel // 2
    margin = radius + 2
    count, h, w = maps.shape
    reach = np.arange(-margin, margin + 1)
    rows, columns = ys[:, None] + reach, xs[:, None] + reach  # [M, 2 margin + 1]
    window = maps[
        np.arange(count)[:, None, None],
        rows.clip(0, h - 1)[:, :, None],
        columns.clip(0, w - 1)[:, None, :],
    ].astype(np.float64)
    window *= ((rows >= 0) & (rows < h))[:, :, None] & ((columns >= 0) & (columns < w))[:, None, :]
    blur, copy = dark_windows(kernel)
    # The 3 x 3 stencil in the middle sees `radius + 1` cells to each side.
    near_side = (ys <= radius) | (ys >= h - 1 - radius)
    near_end = (xs <= radius) | (xs >= w - 1 - radius)
    along_y = np.where((near_side & (not fade))[:, None, None], copy, blur)  # [M, 5, 2 margin + 1]
    along_x = np.where((near_end & (not fade))[:, None, None], copy, blur)
    blurred = along_y @ window @ along_x.transpose(0, 2, 1)
    peak = maps[np.arange(count), ys, xs]
    return np.asarray(blurred * (peak / np.maximum(blurred.max(axis=(1, 2)), 1e-12))[:, None, None])


@lru_cache
def dark_windows(kernel: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """From a line of cells to its middle five: blurred, and as they are; each [5, kernel + 4]."""
    radius = kernel // 2
    length = 2 * (radius + 2) + 1
    # OpenCV's rule from side to sigma; DARK was tuned with it.
    sigma = 0.3 * ((kernel - 1) * 0.5 - 1) + 0.8
    gauss = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * sigma**2))
    gauss /= gauss.sum()
    blur = np.zeros((5, length))
    for row in range(5):
        blur[row, row : row + kernel] = gauss
    copy = np.eye(5, length, k=radius)
    blur.flags.writeable = copy.flags.writeable = False  # shared by all callers
    return blur, copy


def _newton_legacy(
    near: npt.NDArray[np.float64],
    xs: npt.NDArray[np.intp],
    ys: npt.NDArray[np.intp],
    shape: tuple[int, ...],
) -> npt.NDArray[np.float64]:
    """DARK as published: differences two cells wide, none within two cells of the border."""
    h, w = shape
    inside = (xs > 1) & (xs < w - 2) & (ys > 1) & (ys < h - 2)
    return _newton(*wide_differences(np.log(np.maximum(near, 1e-10)))) * inside[:, None]


def wide_differences(log: Any) -> tuple[Any, Any, Any, Any, Any]:
    """Derivatives dx, dy, dxx, dyy, dxy at the middle of [M, 5, 5], as published by DARK.

    log: an array or a tensor, as are the five.
    """
    return (
        (log[:, 2, 3] - log[:, 2, 1]) / 2,
        (log[:, 3, 2] - log[:, 1, 2]) / 2,
        (log[:, 2, 4] - 2 * log[:, 2, 2] + log[:, 2, 0]) / 4,
        (log[:, 4, 2] - 2 * log[:, 2, 2] + log[:, 0, 2]) / 4,
        (log[:, 3, 3] - log[:, 1, 3] - log[:, 3, 1] + log[:, 1, 1]) / 4,
    )


def close_differences(log: Any) -> tuple[Any, Any, Any, Any, Any]:
    """The same from neighbours one cell away, as in DARK's UDP form (mmpose)."""
    middle, left, right = log[:, 2, 2], log[:, 2, 1], log[:, 2, 3]
    above, below = log[:, 1, 2], log[:, 3, 2]
    return (
        (right - left) / 2,
        (below - above) / 2,
        right - 2 * middle + left + _EPSILON,
        below - 2 * middle + above + _EPSILON,
        (log[:, 3, 3] - right - below + 2 * middle - left - above + log[:, 1, 1]) / 2,
    )


def is_hill(dxx: Any, dyy: Any, dxy: Any) -> Any:
    """Where a Hessian is that of a maximum; arrays or tensors [M]."""
    return (dxx < 0) & (dyy < 0) & (dxx * dyy > dxy * dxy)


def _newton(
    dx: npt.NDArray[np.float64],
    dy: npt.NDArray[np.float64],
    dxx: npt.NDArray[np.float64],
    dyy: npt.NDArray[np.float64],
    dxy: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """-H^-1 g for each 2 x 2 Hessian, 0 where it has no inverse; [M, 2] as (x, y)."""
    determinant = dxx * dyy - dxy * dxy
    solvable = determinant != 0
    safe = np.where(solvable, determinant, 1.0)
    step = -np.stack([dyy * dx - dxy * dy, dxx * dy - dxy * dx], axis=1) / safe[:, None]
    return np.asarray(np.where(solvable[:, None], step, 0.0))
