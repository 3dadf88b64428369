"""People labelled more than once: by mistake, or to learn how exactly people label."""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from heads.skeleton import Skeleton
from training.findings import Findings, Labelled
from training.metrics import oks

SAME_OKS = 0.95
REPEATED_OKS, REPEATED_IOU, REPEATED_LEAST = 0.5, 0.7, 20
"""Two labels of one person, from which sigmas are measured where there are so many a keypoint."""


def check_same(people: Sequence[Labelled], skeleton: Skeleton, findings: Findings) -> None:
    """Nobody stands in the file twice."""
    for a, b in _by_image(people):
        likeness = _oks(a, b, skeleton)
        if likeness >= SAME_OKS:
            reason = f"is the same person as annotation {a.id} (OKS {likeness:.2f})"
            findings.add("warning", "same-person", reason, b.image, b.id)


def measured_sigmas(people: Sequence[Labelled], skeleton: Skeleton) -> dict[int, tuple[float, str]]:
    """Spread of labels where people are labelled twice, as a share of the root of their area.

    As COCO's: the root of the mean of d**2 / area, d from the true place. Two labels of one place
    lie d1 - d2 apart, whose square is twice as large on average.
    """
    shares: dict[int, list[float]] = defaultdict(list)
    for a, b in _by_image(people):
        apart = np.linalg.norm(a.keypoints[:, :2] - b.keypoints[:, :2], axis=1)
        both = a.labelled & b.labelled
        copied = not (apart * both > 0.01).any()
        if copied or _iou(a, b) < REPEATED_IOU or _oks(a, b, skeleton) < REPEATED_OKS:
            continue
        for k in np.flatnonzero(both).tolist():
            shares[k].append(float(apart[k] ** 2 / (a.area + b.area)))
    return {
        k: (max(math.sqrt(np.mean(values)), 1e-3), f"{len(values)} people labelled twice")
        for k, values in shares.items()
        if len(values) >= REPEATED_LEAST
    }


def _by_image(people: Sequence[Labelled]) -> Iterator[tuple[Labelled, Labelled]]:
    """Every two people with labels in one image."""
    groups: dict[Any, list[Labelled]] = defaultdict(list)
    for person in people:
        if person.labelled.any():
            groups[person.image].append(person)
    for group in groups.values():
        yield from combinations(group, 2)


def _oks(a: Labelled, b: Labelled, skeleton: Skeleton) -> float:
    """Likeness of two labels over what both have; 0 where that is less than half of either."""
    both = a.labelled & b.labelled
    if 2 * both.sum() < max(a.labelled.sum(), b.labelled.sum()) or not both.any():
        return 0.0
    squared = ((a.keypoints[:, :2] - b.keypoints[:, :2]) ** 2).sum(axis=1)
    return float(oks(squared, (a.area + b.area) / 2, skeleton.sigmas)[both].mean())


def _iou(a: Labelled, b: Labelled) -> float:
    boxes = np.array([a.box_xywh, b.box_xywh])
    ends = boxes[:, :2] + boxes[:, 2:]
    sides = np.maximum(ends.min(axis=0) - boxes[:, :2].max(axis=0), 0.0)
    shared = float(sides.prod())
    return shared / max(float(boxes[:, 2:].prod(axis=1).sum()) - shared, 1e-9)
