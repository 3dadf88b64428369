"""HeatmapCodec.decode as a torch module, so that it can stand in an exported graph.

The same steps as in `heads.codec`, which is the reference, but in 32-bit: where a map is nearly
flat, DARK's step may differ by a fraction of a cell; `hrpose export --decode` says by how much.
"""

import numpy as np
import torch
from torch import Tensor, nn

from heads.codec import (
    FARTHEST_STEP,
    HeatmapCodec,
    close_differences,
    dark_windows,
    is_hill,
    wide_differences,
)
from heads.geometry import cell_scale


class HeatmapDecoder(nn.Module):
    """Heatmaps [N, K, h, w] -> [N, K, 3]: x and y in input pixels, and the height of the peak."""

    scale: Tensor
    blur: Tensor
    copied: Tensor

    def __init__(self, codec: HeatmapCodec) -> None:
        super().__init__()
        self.codec = codec
        scale = cell_scale(codec.input_size, codec.heatmap_size, codec.alignment)
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32), persistent=False)
        blur, copy = dark_windows(codec.blur_kernel)
        for name, rows in (("blur", blur), ("copied", copy)):
            tensor = torch.tensor(np.asarray(rows), dtype=torch.float32)
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, heatmaps: Tensor) -> Tensor:
        """Where no cell is above 0 the point is (0, 0)."""
        h, w = self.codec.heatmap_size
        maps = heatmaps.reshape(-1, h * w)  # [M, h w]
        index = maps.argmax(1)
        ys = torch.div(index, w, rounding_mode="floor")
        xs = index - ys * w
        scores = maps.gather(1, index[:, None])[:, 0]
        cells = torch.stack([xs, ys], 1).to(maps.dtype)
        if self.codec.refine == "quarter":
            cells = cells + self._quarter(maps, xs, ys)
        elif self.codec.refine == "dark":
            cells = cells + self._dark(maps, xs, ys)
        points = torch.where((scores > 0)[:, None], cells * self.scale, torch.zeros_like(cells))
        found = torch.cat([points, scores[:, None]], 1)
        return found.reshape(heatmaps.shape[0], heatmaps.shape[1], 3)

    def _at(self, maps: Tensor, xs: Tensor, ys: Tensor) -> Tensor:
        return maps.gather(1, (ys * self.codec.heatmap_size[1] + xs)[:, None])[:, 0]

    def _quarter(self, maps: Tensor, xs: Tensor, ys: Tensor) -> Tensor:
        h, w = self.codec.heatmap_size
        inside = (xs > 1) & (xs < w - 1) & (ys > 1) & (ys < h - 1)
        x, y = xs.clamp(1, w - 2), ys.clamp(1, h - 2)
        step = torch.stack(
            [
                torch.sign(self._at(maps, x + 1, y) - self._at(maps, x - 1, y)),
                torch.sign(self._at(maps, x, y + 1) - self._at(maps, x, y - 1)),
            ],
            1,
        )
        return 0.25 * step * inside[:, None].to(maps.dtype)

    def _dark(self, maps: Tensor, xs: Tensor, ys: Tensor) -> Tensor:
        h, w = self.codec.heatmap_size
        if self.codec.alignment == "legacy":
            near = self._neighbourhood(maps, xs, ys, fade=True)
            step = _newton(*wide_differences(near.clamp(min=1e-10).log()))
            inside = (xs > 1) & (xs < w - 2) & (ys > 1) & (ys < h - 2)
            return step * inside[:, None].to(maps.dtype)
        inner_x, inner_y = xs.clamp(1, max(1, w - 2)), ys.clamp(1, max(1, h - 2))
        near = self._neighbourhood(maps, inner_x, inner_y, fade=False)
        differences = close_differences(near.clamp(0.001, 50).log())
        aside = torch.stack([inner_x - xs, inner_y - ys], 1)
        lost = (aside != 0).any(1) & ~is_hill(*differences[2:])
        step = _newton(*differences) + aside.to(maps.dtype)
        step = torch.where(lost[:, None], torch.zeros_like(step), step)
        return step.clamp(-FARTHEST_STEP, FARTHEST_STEP)

    def _neighbourhood(self, maps: Tensor, xs: Tensor, ys: Tensor, *, fade: bool) -> Tensor:
        """The 5 x 5 cells round (xs, ys) of the blurred maps, [M, 5, 5]."""
        h, w = self.codec.heatmap_size
        radius = self.codec.blur_kernel // 2
        reach = torch.arange(-radius - 2, radius + 3, device=ys.device)
        rows, columns = ys[:, None] + reach, xs[:, None] + reach  # [M, side]
        side = len(reach)
        lies = rows.clamp(0, h - 1)[:, :, None] * w + columns.clamp(0, w - 1)[:, None, :]
        window = maps.gather(1, lies.reshape(-1, side * side)).reshape(-1, side, side)
        is_row = ((rows >= 0) & (rows < h))[:, :, None]
        is_column = ((columns >= 0) & (columns < w))[:, None, :]
        window = window * (is_row & is_column).to(maps.dtype)
        along_y = along_x = self.blur[None]
        if not fade:
            near_side = (ys <= radius) | (ys >= h - 1 - radius)
            near_end = (xs <= radius) | (xs >= w - 1 - radius)
            along_y = torch.where(near_side[:, None, None], self.copied, self.blur)
            along_x = torch.where(near_end[:, None, None], self.copied, self.blur)
        blurred = along_y @ window @ along_x.transpose(1, 2)
        peak = self._at(maps, xs, ys)
        highest = blurred.amax((1, 2)).clamp(min=1e-12)
        return blurred * (peak / highest)[:, None, None]


def _newton(dx: Tensor, dy: Tensor, dxx: Tensor, dyy: Tensor, dxy: Tensor) -> Tensor:
    determinant = dxx * dyy - dxy * dxy
    solvable = determinant != 0
    safe = torch.where(solvable, determinant, torch.ones_like(determinant))
    step = -torch.stack([dyy * dx - dxy * dy, dxx * dy - dxy * dx], 1) / safe[:, None]
    return torch.where(solvable[:, None], step, torch.zeros_like(step))
