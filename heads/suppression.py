"""Which answers are the same person or box: OKS, intersection over union, and what they suppress.

OKS (object keypoint similarity, cocodataset.org) is for keypoints what intersection over union is
for boxes: 1 where two answers agree, towards 0 as they part. The functions reproduce the official
HRNet evaluation (lib/nms/nms.py, lib/dataset/coco.py there). Axes: N people, K keypoints.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from heads.skeleton import COCO_17
from models.errors import ShapeError

FloatArray = npt.NDArray[np.floating]

COCO_SIGMAS = np.array(COCO_17.sigmas)


def oks(
    keypoints: FloatArray,
    areas: FloatArray,
    *,
    sigmas: FloatArray = COCO_SIGMAS,
    min_score: float | None = None,
) -> npt.NDArray[np.float64]:
    """Similarity of each two people, [N, N]: entry i, j is that of j against i.

    keypoints: [N, K, 3] as (x, y, score) in pixels.  areas: [N] in square pixels; a pair is
    measured against the mean of both.
    min_score: leaves out keypoints whose score in j is not above it. (The official code means to
    ask both people and asks only the second; so the matrix is not symmetric then.)
    """
    keypoints = np.asarray(keypoints, dtype=np.float64)
    if keypoints.ndim != 3 or keypoints.shape[1:] != (len(sigmas), 3):
        raise ShapeError(f"keypoints are [N, {len(sigmas)}, 3]; got {keypoints.shape}")
    points, areas = keypoints[..., :2], np.asarray(areas, dtype=np.float64)
    squared = ((points[:, None] - points[None]) ** 2).sum(axis=-1)  # [N, N, K]
    area = (areas[:, None] + areas[None]) / 2 + np.spacing(1)
    near = np.exp(-squared / (2 * np.asarray(sigmas)) ** 2 / area[..., None] / 2)
    if min_score is None:
        return np.asarray(near.mean(axis=-1))
    counted = np.broadcast_to(keypoints[None, :, :, 2] > min_score, near.shape)
    return np.asarray((near * counted).sum(axis=-1) / np.maximum(counted.sum(axis=-1), 1))


def oks_nms(
    keypoints: FloatArray,
    scores: FloatArray,
    areas: FloatArray,
    threshold: float,
    *,
    sigmas: FloatArray = COCO_SIGMAS,
    min_score: float | None = None,
) -> list[int]:
    """Indices of the people to keep, best first: none more like a better one than `threshold`."""
    similar = oks(keypoints, areas, sigmas=sigmas, min_score=min_score)
    return _keep_unlike(similar, np.asarray(scores), threshold)


def soft_oks_nms(
    keypoints: FloatArray,
    scores: FloatArray,
    areas: FloatArray,
    threshold: float,
    *,
    sigmas: FloatArray = COCO_SIGMAS,
    min_score: float | None = None,
    max_people: int = 20,
) -> list[int]:
    """Indices of at most max_people people, best first, likeness lowering scores.

    After each choice the others' scores are multiplied by exp(-oks**2 / threshold)
    (Soft-NMS, arXiv:1704.04503, equation 4, with OKS for overlap).
    """
    similar = oks(keypoints, areas, sigmas=sigmas, min_score=min_score)
    left = np.asarray(scores, dtype=np.float64).argsort()[::-1]
    current = np.asarray(scores, dtype=np.float64)[left]
    kept: list[int] = []
    while left.size and len(kept) < max_people:
        best, left = left[0], left[1:]
        kept.append(int(best))
        current = current[1:] * np.exp(-(similar[best, left] ** 2) / threshold)
        order = current.argsort()[::-1]
        left, current = left[order], current[order]
    return kept


def box_iou(boxes_xyxy: FloatArray, *, edge: float = 0.0) -> npt.NDArray[np.float64]:
    """Intersection over union of each two boxes, [N, N].

    boxes_xyxy: [N, 4].  edge: added to widths and heights; 1 where corners are counted pixels.
    """
    boxes = np.asarray(boxes_xyxy, dtype=np.float64)
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    common = np.maximum(high - low + edge, 0).prod(axis=-1)
    areas = (boxes[:, 2:] - boxes[:, :2] + edge).prod(axis=-1)
    union = areas[:, None] + areas[None] - common
    return np.asarray(common / np.maximum(union, np.finfo(np.float64).tiny))


def box_nms(boxes_xyxy: FloatArray, scores: FloatArray, threshold: float) -> list[int]:
    """Indices of the boxes to keep, best first; corners are counted pixels, as in Fast R-CNN."""
    return _keep_unlike(box_iou(boxes_xyxy, edge=1.0), np.asarray(scores), threshold)


@dataclass(frozen=True)
class Kept:
    """One answer that stays: its place in the list and its new score."""

    index: int
    score: float


def rescore_and_suppress(
    keypoints: FloatArray,
    box_scores: FloatArray,
    areas: FloatArray,
    *,
    min_score: float = 0.2,
    threshold: float = 0.9,
    soft: bool = False,
    sigmas: FloatArray = COCO_SIGMAS,
) -> list[Kept]:
    """What the official evaluation keeps of one image's people, best first.

    A person's score becomes the box's times the mean of the keypoint scores above min_score.
    """
    points = np.asarray(keypoints, dtype=np.float64)
    counted = points[..., 2] > min_score
    mean = (points[..., 2] * counted).sum(axis=1) / np.maximum(counted.sum(axis=1), 1)
    scores = mean * np.asarray(box_scores, dtype=np.float64)
    suppress = soft_oks_nms if soft else oks_nms
    kept = suppress(points, scores, areas, threshold, sigmas=sigmas)
    return [Kept(i, float(scores[i])) for i in kept]


def _keep_unlike(
    similar: npt.NDArray[np.float64], scores: npt.NDArray[np.floating], threshold: float
) -> list[int]:
    """Greedy suppression: the best stays, what is more like it than threshold goes, and so on."""
    left = scores.argsort()[::-1]
    kept: list[int] = []
    while left.size:
        best = left[0]
        kept.append(int(best))
        left = left[1:][similar[best, left[1:]] <= threshold]
    return kept
