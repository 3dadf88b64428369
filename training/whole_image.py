"""Measures of what networks say about whole images: classes by their rank, regions by overlap."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from training.losses import IGNORED
from training.task import Measured

Mask = npt.NDArray[np.uint8]


def top_shares(ranks: Sequence[int]) -> Measured:
    """Share of photographs whose class is the likeliest, or among the five likeliest.

    ranks: how many classes were likelier than the right one, of each photograph.
    """
    places = np.asarray(ranks)
    return {"top1": float((places < 1).mean()), "top5": float((places < 5).mean())}


class Regions:
    """Pixels by their true and their found class, over all photographs."""

    def __init__(self, classes: int) -> None:
        self._table = np.zeros((classes, classes), np.int64)  # [true, found]

    def add(self, true: Mask, found: Mask) -> None:
        """Counts a photograph's; IGNORED of the true ones count not."""
        count, known = len(self._table), true != IGNORED
        pairs = true[known].astype(np.int64) * count + found[known]
        self._table += np.bincount(pairs, minlength=count * count).reshape(count, count)

    @property
    def by_class(self) -> npt.NDArray[np.float64]:
        """Intersection over union of each class; NaN of those that are neither there nor said."""
        right = np.diag(self._table)
        union = self._table.sum(axis=0) + self._table.sum(axis=1) - right
        return np.where(union > 0, right / np.maximum(union, 1), np.nan)

    def measured(self) -> Measured:
        """Mean over classes of intersection over union, and the share of right pixels."""
        shares = self.by_class[~np.isnan(self.by_class)]
        right = np.diag(self._table).sum()
        return {
            "miou": float(shares.mean()) if len(shares) else 0.0,
            "pixels": float(right / max(1, self._table.sum())),
        }
