"""Center maps to people and back: MoveNet's decoding (Google, Apache-2.0), and targets, in numpy.

A center network answers maps on a grid of h x w cells, `stride` input pixels apart:

    center       [N, 1, h, w]   logit: the middle of a person lies in this cell
    kpt_heatmap  [N, K, h, w]   logit: keypoint k of anybody lies in this cell
    kpt_regress  [N, 2K, h, w]  (dy, dx) in cells from a centre to that person's keypoints: a guess
    kpt_offset   [N, 2K, h, w]  (dy, dx) in cells within a keypoint's own cell
    box_scale    [N, 2, h, w]   height and width in cells of the box round a centre
    box_offset   [N, 2, h, w]   (dy, dx) in cells from a centre's cell to the middle of its box

The guess says which person a heatmap peak belongs to, the peak says exactly where it is. The
constants below are those of the published graphs, some of them rounded to float16 there.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from heads.geometry import Crop, Size, clip_box
from heads.person import Box, Person, ScoredBox
from models.errors import ShapeError

FloatArray = npt.NDArray[np.float32]
Maps = Mapping[str, FloatArray]

BOX_MAPS = ("center", "box_scale", "box_offset")
"""What boxes are read from; the other maps are the keypoints'."""

_CENTRE_WEIGHT = 1.8
_GUESS_WEIGHT = 1.7998046875
_PEAK_TOLERANCE = 1.0132789611816406e-06
_SPREAD = 0.300048828125
_COUNTED_SCORE = 0.126953125


# Widths of the target's peaks, in shares of a person's box: its shorter side, and the root of its
# area. A peak is at least a cell wide, and cut off three widths away.
_CENTRE_SIGMA, _KEYPOINT_SIGMA = 0.08, 0.025
_REACH = 3


@dataclass(frozen=True)
class PeopleMaps:
    """What one image's center maps say, P people by falling centre score.

    points: [P, K, 2] as (x, y) input pixels.  point_scores: [P, K].
    boxes_xyxy: [P, 4] input pixels.  centre_scores, scores: [P]; `scores` counts keypoints too.
    """

    points: FloatArray
    point_scores: FloatArray
    boxes_xyxy: FloatArray
    centre_scores: FloatArray
    scores: FloatArray

    def people(self, view: Crop, image_size: Size) -> list[Person]:
        """Them in image pixels, boxes cut to the image. view: how the image was fed."""
        found = []
        for i, box in enumerate(_in_image(self.boxes_xyxy, view, image_size)):
            points = view.to_image(self.points[i])
            keypoints = np.column_stack([points, self.point_scores[i]]).astype(np.float32)
            found.append(
                Person(keypoints, float(self.scores[i]), box, float(self.centre_scores[i]))
            )
        return found


@dataclass(frozen=True)
class _Centres:
    """Middles of people by falling score, in cells.

    y, x, scores: [P].  low, high: corners of their boxes [2, P] as (y, x), cut to the map.
    """

    y: npt.NDArray[np.intp]
    x: npt.NDArray[np.intp]
    scores: FloatArray
    low: FloatArray
    high: FloatArray

    @property
    def xyxy(self) -> FloatArray:
        """The boxes [P, 4]."""
        return np.stack([self.low[1], self.low[0], self.high[1], self.high[0]], axis=1)


@dataclass(frozen=True)
class CenterCodec:
    """Reads center maps.

    stride: input pixels a cell.  max_people: so many centres are looked at.
    shift_px: added to cell * stride to give input pixels (0 = centre of the first pixel). MoveNet's
        TensorFlow padding lays its grid a little off; the shift was measured with mirrored images.
    """

    stride: int = 4
    shift_px: float = 0.0
    max_people: int = 6

    def to_pixels(self, cells: npt.NDArray[np.floating]) -> FloatArray:
        """Cells -> input pixels."""
        return np.asarray(cells * self.stride + self.shift_px, dtype=np.float32)

    def to_cells(self, pixels: npt.NDArray[np.floating]) -> FloatArray:
        """Input pixels -> cells."""
        return np.asarray((pixels - self.shift_px) / self.stride, dtype=np.float32)

    def encode(
        self, points: FloatArray, weights: FloatArray, boxes_xyxy: FloatArray, size: tuple[int, int]
    ) -> dict[str, FloatArray]:
        """What the maps of an image [h, w] cells with these P people should say.

        points: [P, K, 2] as (x, y) input pixels.  weights: [P, K], 0 where not labelled.
        boxes_xyxy: [P, 4] input pixels; who has the middle of the box outside has keypoints alone.
        Returns `center` and `kpt_heatmap` as shares of 1 instead of logits, the other maps, and for
        each of these X the map `X_weight`, 0 where X is not to be learned: of kpt_heatmap where the
        box of somebody lies whose keypoint is not labelled, of the others all but a few cells. Near
        a keypoint it is that keypoint's own weight.
        """
        h, w = size
        count, k = weights.shape
        maps = {
            "center": np.zeros((1, h, w), np.float32),
            "kpt_heatmap": np.zeros((k, h, w), np.float32),
            "kpt_heatmap_weight": np.ones((k, h, w), np.float32),
            "kpt_regress": np.zeros((2 * k, h, w), np.float32),
            "kpt_regress_weight": np.zeros((2 * k, h, w), np.float32),
            "kpt_offset": np.zeros((2 * k, h, w), np.float32),
            "kpt_offset_weight": np.zeros((2 * k, h, w), np.float32),
            "box_scale": np.zeros((2, h, w), np.float32),
            "box_offset": np.zeros((2, h, w), np.float32),
            "box_weight": np.zeros((1, h, w), np.float32),
        }
        cells, boxes = self.to_cells(points), self.to_cells(boxes_xyxy)
        for person in range(count):
            self._forget(maps["kpt_heatmap_weight"], weights[person], boxes[person])
        sure = np.zeros_like(maps["kpt_heatmap"])
        for person in range(count):
            self._write_person(maps, sure, cells[person], weights[person], boxes[person])
        known = maps["kpt_heatmap_weight"]
        known[sure > 0] = sure[sure > 0]
        return maps

    def _forget(self, known: FloatArray, weights: FloatArray, box: FloatArray) -> None:
        """Nobody knows whether an unlabelled keypoint is anywhere in its person's box."""
        low = np.floor(box[:2]).astype(int).clip(0)
        high = (np.ceil(box[2:]).astype(int) + 1).clip(0)
        known[weights <= 0, low[1] : high[1], low[0] : high[0]] = 0

    def _write_person(
        self,
        maps: dict[str, FloatArray],
        sure: FloatArray,
        cells: FloatArray,
        weights: FloatArray,
        box: FloatArray,
    ) -> None:
        """Adds a person to the maps, and to `sure` how sure the surest keypoint near a cell is."""
        h, w = maps["center"].shape[1:]
        middle, size = (box[:2] + box[2:]) / 2, np.maximum(box[2:] - box[:2], 1e-3)
        spread = max(1.0, _KEYPOINT_SIGMA * float(np.sqrt(size.prod())))
        labelled = np.flatnonzero(weights > 0)
        for k in labelled:
            pair = slice(2 * k, 2 * k + 2)
            x, y = np.round(cells[k]).astype(int)
            if 0 <= x < w and 0 <= y < h:
                near = _write_peak(maps["kpt_heatmap"][k], (x, y), spread)
                np.maximum(sure[k][near], weights[k], out=sure[k][near])
                maps["kpt_offset"][pair, y, x] = cells[k, ::-1] - (y, x)
                maps["kpt_offset_weight"][pair, y, x] = weights[k]
        cx, cy = np.round(middle).astype(int)
        if not (0 <= cx < w and 0 <= cy < h):
            return
        _write_peak(maps["center"][0], (cx, cy), max(1.0, _CENTRE_SIGMA * float(size.min())))
        maps["box_scale"][:, cy, cx] = size[::-1]
        maps["box_offset"][:, cy, cx] = middle[::-1] - (cy, cx)
        maps["box_weight"][:, cy, cx] = 1
        maps["kpt_regress_weight"][:, cy, cx] = 0  # of somebody else with the same middle
        for k in labelled:
            pair = slice(2 * k, 2 * k + 2)
            maps["kpt_regress"][pair, cy, cx] = cells[k, ::-1] - (cy, cx)
            maps["kpt_regress_weight"][pair, cy, cx] = weights[k]

    def decode_single(self, maps: Maps) -> tuple[FloatArray, FloatArray]:
        """The person nearest the middle of each crop: points [N, K, 2] (x, y) px, scores [N, K]."""
        heat, centre = _sigmoid(maps["kpt_heatmap"]), _sigmoid(maps["center"][:, 0])
        n, k, h, w = heat.shape
        ys, xs = np.mgrid[0:h, 0:w].astype(np.float32)
        distance = np.hypot(ys - h // 2, xs - w // 2)
        middle = (1 / (distance + _CENTRE_WEIGHT)).astype(np.float16).astype(np.float32)
        cell = (centre * middle).reshape(n, h * w).argmax(axis=1)
        each = np.arange(n)
        guess = _pairs(maps["kpt_regress"])[each, :, :, cell // w, cell % w]  # [N, K, 2] (dy, dx)
        guess_y = (cell // w)[:, None] + guess[..., 0]
        guess_x = (cell % w)[:, None] + guess[..., 1]
        away = np.sqrt((ys - guess_y[..., None, None]) ** 2 + (xs - guess_x[..., None, None]) ** 2)
        best = (heat / (away + np.float32(_GUESS_WEIGHT))).reshape(n, k, h * w).argmax(axis=2)
        cells = _offset_cells(maps["kpt_offset"], best)
        scores = np.take_along_axis(heat.reshape(n, k, h * w), best[..., None], axis=2)[..., 0]
        return self.to_pixels(cells), scores

    def decode_people(self, maps: Maps) -> list[PeopleMaps]:
        """Everybody in each image of the batch."""
        return [self._people(of_one) for of_one in _each(maps)]

    def decode_boxes(self, maps: Maps, view: Crop, image_size: Size) -> list[ScoredBox]:
        """Where people are in the image of which `view` was fed, best first, without keypoints.

        maps: of that one view, [1, c, h, w].
        """
        (of_one,) = _each(maps)
        centres = self._centres(of_one)
        boxes = _in_image(self.to_pixels(centres.xyxy), view, image_size)
        return [
            ScoredBox(box, score) for box, score in zip(boxes, centres.scores.tolist(), strict=True)
        ]

    def _centres(self, maps: Maps) -> _Centres:
        centre = _sigmoid(maps["center"][0])
        h, w = centre.shape
        kept = np.where(np.abs(centre - _max_5x5(centre)) < _PEAK_TOLERANCE, centre, 0).reshape(-1)
        # Stable: of equal peaks the first in row order comes first.
        order = np.argsort(-kept, kind="stable")[: self.max_people]
        order = order[kept[order] > 0]
        cy, cx, scores = order // w, order % w, kept[order]

        size = np.maximum(maps["box_scale"][:, cy, cx], 0)  # [2, P] height, width
        middle = np.stack([cy, cx]) + maps["box_offset"][:, cy, cx]
        limit = np.array([[h], [w]], dtype=np.float32)
        low = (middle - size / 2).clip(0, limit)
        high = (middle + size / 2).clip(0, limit)
        return _Centres(cy, cx, scores, low, high)

    def _people(self, maps: Maps) -> PeopleMaps:
        logits, centres = maps["kpt_heatmap"], self._centres(maps)
        k, h, w = logits.shape
        cy, cx, scores, low, high = (
            centres.y, centres.x, centres.scores, centres.low, centres.high,
        )  # fmt: skip
        count = len(scores)

        guess = _pairs(maps["kpt_regress"][None])[0][:, :, cy, cx].transpose(2, 0, 1)  # [P, K, 2]
        spread = np.float32(_SPREAD * min(h, w))

        def along(side: int, axis: int, start: npt.NDArray[np.intp]) -> FloatArray:
            """Gaussian round the guess, 0 outside the box, along one axis: [P, K, side]."""
            positions = np.arange(side, dtype=np.float32)
            away = positions - (start[:, None] + guess[..., axis])[..., None]
            inside = (positions >= low[axis][:, None]) & (positions < high[axis][:, None])
            return np.asarray(np.exp(-(away**2) / spread) * inside[:, None, :], dtype=np.float32)

        rows, columns = along(h, 0, cy), along(w, 1, cx)
        first, last = np.ceil(low).astype(int), np.ceil(high).astype(int)  # cells inside the boxes
        best = np.zeros((count, k), dtype=np.intp)
        for person in range(count):
            (top, left), (bottom, right) = first[:, person], last[:, person]
            best[person] = _highest(logits, rows[person], columns[person], top, bottom, left, right)
        # The graph takes the best of ALL people at a keypoint's cell; it tells for overlaps.
        each, y, x = np.arange(k), best // w, best % w
        at_best = _sigmoid(logits[each, y, x]) * rows[:, each, y] * columns[:, each, x]  # [Q, P, K]
        point_scores = at_best.max(axis=0) if count else np.zeros((0, k), np.float32)
        counted = point_scores > _COUNTED_SCORE
        mean = np.where(counted, point_scores, 0).sum(axis=1) / np.maximum(counted.sum(axis=1), 1)
        inside = _pairs(maps["kpt_offset"][None])[0][each, :, y, x]  # [P, K, 2] (dy, dx)
        cells = np.stack([x + inside[..., 1], y + inside[..., 0]], axis=-1)
        return PeopleMaps(
            points=self.to_pixels(cells),
            point_scores=point_scores.astype(np.float32),
            boxes_xyxy=self.to_pixels(centres.xyxy),
            centre_scores=scores.astype(np.float32),
            scores=(scores * mean).astype(np.float32),
        )


def _each(maps: Maps) -> list[Maps]:
    """The maps of each image of a batch; ShapeError where they have no boxes."""
    if "box_scale" not in maps:
        raise ShapeError("these center maps have no boxes; people cannot be told apart")
    return [{name: m[i] for name, m in maps.items()} for i in range(len(maps["center"]))]


def _in_image(boxes_xyxy: FloatArray, view: Crop, image_size: Size) -> list[Box]:
    """Boxes [P, 4] in pixels of a view -> left, top, width and height, cut to the image."""
    corners = view.to_image(boxes_xyxy.reshape(-1, 2).astype(np.float64)).reshape(-1, 4)
    return [clip_box((x0, y0, x1 - x0, y1 - y0), image_size) for x0, y0, x1, y1 in corners.tolist()]


def _highest(
    logits: FloatArray,
    rows: FloatArray,
    columns: FloatArray,
    top: int,
    bottom: int,
    left: int,
    right: int,
) -> npt.NDArray[np.intp]:
    """Flat number of each keypoint's best cell [K] in a box, logits [K, h, w] weighted by both.

    Looks at no cell outside the box, where a weight is 0: the whole maps of everybody are large.
    """
    k, _, w = logits.shape
    heat = _sigmoid(logits[:, top:bottom, left:right])
    if heat.size == 0:
        return np.zeros(k, dtype=np.intp)
    heat *= rows[:, top:bottom, None]
    heat *= columns[:, None, left:right]
    flat = heat.reshape(k, -1)
    best = flat.argmax(axis=1)
    cell = (best // (right - left) + top) * w + best % (right - left) + left
    return np.where(flat[np.arange(k), best] > 0, cell, 0)


def _write_peak(map_: FloatArray, cell: tuple[int, int], sigma: float) -> tuple[slice, slice]:
    """A Gaussian of height 1 round a cell (x, y), where it is higher than what stands there."""
    reach = int(_REACH * sigma)
    rows = slice(max(0, cell[1] - reach), cell[1] + reach + 1)
    columns = slice(max(0, cell[0] - reach), cell[0] + reach + 1)
    h, w = map_.shape
    y, x = np.arange(h)[rows, None] - cell[1], np.arange(w)[None, columns] - cell[0]
    peak = np.exp(-(x**2 + y**2) / (2 * sigma**2)).astype(np.float32)
    np.maximum(map_[rows, columns], peak, out=map_[rows, columns])
    return rows, columns


def _sigmoid(logits: FloatArray) -> FloatArray:
    # The same as 1 / (1 + exp(-x)), without its overflow, and in one array.
    values = np.multiply(logits, 0.5, dtype=np.float32)
    np.tanh(values, out=values)
    values *= 0.5
    values += 0.5
    return values


def _pairs(maps: FloatArray) -> FloatArray:
    """[N, 2K, h, w] with (dy, dx) in turn -> [N, K, 2, h, w]."""
    n, channels, h, w = maps.shape
    return maps.reshape(n, channels // 2, 2, h, w)


def _offset_cells(offset: FloatArray, best: npt.NDArray[np.intp]) -> FloatArray:
    """Exact cells [N, K, 2] as (x, y) of the peaks `best` [N, K] (flat cell numbers)."""
    pairs = _pairs(offset)
    n, k, _, h, w = pairs.shape
    inside = np.take_along_axis(pairs.reshape(n, k, 2, h * w), best[:, :, None, None], axis=3)[
        ..., 0
    ]
    return np.stack([best % w + inside[..., 1], best // w + inside[..., 0]], axis=-1)


def _max_5x5(values: FloatArray) -> FloatArray:
    """The largest of the 5 x 5 cells round each cell."""
    h, w = values.shape
    padded = np.pad(values, 2, constant_values=-np.inf)
    rows = np.max([padded[i : i + h] for i in range(5)], axis=0)
    return np.asarray(np.max([rows[:, i : i + w] for i in range(5)], axis=0), dtype=np.float32)
