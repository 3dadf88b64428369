"""Measures of keypoints beside the official AP: PCK, PCKh, AUC and EPE, over labelled keypoints.

PCK@a    share within a times a reference length: the torso's diagonal
PCKh@a   the same by the head's length, from head_top to the neck, or by its ears. MPII's own
         PCKh (a = 0.5) is by 0.6 of the diagonal of a head's box, which COCO files do not have
AUC      mean of PCK by the box's longer side over a = 0 ... 0.2 (hands, faces)
OKS      how alike, by the area and by how exactly people label each keypoint (COCO)
EPE      mean distance in pixels, of people somebody answered for
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from heads.skeleton import Skeleton

FloatArray = npt.NDArray[np.float64]

PCK_SHARE, PCKH_SHARE = 0.2, 0.5
AUC_SHARES = np.linspace(0.01, 0.2, 20)

HEAD_OF_EARS = 1.5
"""A head's height over the distance of its ears: COCO has no top of the head and no chin."""


NECKS = ("upper_neck", "neck")
"""What data sets call the lower end of a head whose upper one is head_top."""


@dataclass(frozen=True)
class Distances:
    """Of one person: how far off each keypoint is, and what that is held against.

    away: [K] pixels; inf where nobody answered.  labelled: [K].
    torso, head, box: reference lengths in pixels; 0 where this person shows none.
    """

    away: FloatArray
    labelled: npt.NDArray[np.bool_]
    torso: float
    head: float
    box: float


def distances(
    truth: FloatArray, found: FloatArray | None, bbox: Sequence[float], skeleton: Skeleton
) -> Distances:
    """Truth [K, 3] as (x, y, visibility); found [K, 3] as (x, y, score), None: not found."""
    away = np.full(len(truth), np.inf)
    if found is not None:
        away = np.linalg.norm(truth[:, :2] - found[:, :2], axis=1)
    head = HEAD_OF_EARS * _longest(truth, skeleton, (("left_ear", "right_ear"),))
    neck = next((name for name in NECKS if name in skeleton.keypoints), None)
    if neck is not None and "head_top" in skeleton.keypoints:
        head = _longest(truth, skeleton, (("head_top", neck),))
    torso = _longest(
        truth, skeleton, (("left_shoulder", "right_hip"), ("right_shoulder", "left_hip"))
    )
    box = float(max(bbox[2], bbox[3]))
    return Distances(away, truth[:, 2] > 0, torso, head, box)


def _longest(truth: FloatArray, skeleton: Skeleton, pairs: Sequence[tuple[str, str]]) -> float:
    """The longest of the distances whose ends are labelled, 0 below a pixel or where none is."""
    index = {name: i for i, name in enumerate(skeleton.keypoints)}
    lengths = [
        float(np.linalg.norm(truth[index[a], :2] - truth[index[b], :2]))
        for a, b in pairs
        if {a, b} <= index.keys() and truth[index[a], 2] > 0 and truth[index[b], 2] > 0
    ]
    longest = max(lengths, default=0.0)
    return longest if longest >= 1 else 0.0


@dataclass(frozen=True)
class Pck:
    """share: of labelled keypoints within reach; None where no person's reach is known.

    by_keypoint: the same of each that was labelled.
    reference: `torso` or, for bodies without shoulders and hips, `box`.
    """

    share: float | None
    by_keypoint: Mapping[str, float]
    reference: str


def pck(people: Sequence[Distances], skeleton: Skeleton) -> Pck:
    """PCK of people whose reference length can be measured."""
    torso = {"left_shoulder", "right_shoulder", "left_hip", "right_hip"} <= set(skeleton.keypoints)
    count = len(skeleton.keypoints)
    good, total = np.zeros(count, np.int64), np.zeros(count, np.int64)
    for person in people:
        reach = PCK_SHARE * (person.torso if torso else person.box)
        if reach > 0:
            total += person.labelled
            good += person.labelled & (person.away <= reach)
    shares = {
        name: float(g / t) for name, g, t in zip(skeleton.keypoints, good, total, strict=True) if t
    }
    share = float(good.sum() / total.sum()) if total.any() else None
    return Pck(share, shares, "torso" if torso else "box")


def oks(squared: FloatArray, area: float, sigmas: Sequence[float]) -> FloatArray:
    """How alike places [K] of a person are, 0 to 1, by squared distances in pixels (COCO's OKS)."""
    spread = 2 * (area + np.spacing(1)) * (2 * np.array(sigmas)) ** 2
    return np.asarray(np.exp(-squared / spread))


def pckh(people: Sequence[Distances]) -> float | None:
    """Share of labelled keypoints within half a head; None where nobody shows a head's size."""
    measured = [p for p in people if p.head > 0]
    return _share(measured, [PCKH_SHARE * p.head for p in measured])


def auc(people: Sequence[Distances]) -> float | None:
    """Mean over AUC_SHARES of the share of keypoints within so much of the box's longer side."""
    shares = [_share(people, [share * p.box for p in people]) for share in AUC_SHARES]
    known = [share for share in shares if share is not None]
    return float(np.mean(known)) if known else None


def epe(people: Sequence[Distances]) -> float | None:
    """Mean distance in pixels of the labelled keypoints of people who were answered for."""
    away = [p.away[p.labelled] for p in people]
    finite = np.concatenate(away)[np.isfinite(np.concatenate(away))] if away else np.zeros(0)
    return float(finite.mean()) if finite.size else None


def _share(people: Sequence[Distances], reach: Sequence[float]) -> float | None:
    total = sum(int(p.labelled.sum()) for p in people)
    good = sum(
        int((p.labelled & (p.away <= near)).sum()) for p, near in zip(people, reach, strict=True)
    )
    return good / total if total else None
