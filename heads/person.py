"""What every path through the library answers with: people, each with named keypoints."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
"""float32 array; the docstring at hand gives its shape."""

Box = tuple[float, float, float, float]
"""Left, top, width and height in image pixels."""


@dataclass(frozen=True, eq=False)
class Person:
    """One person in an image.

    keypoints: [K, 3] float32 as (x, y, score), upright image pixels, 0 = centre of the first pixel.
    score: mean keypoint score times the box score, as in the official COCO evaluation.
    box_xywh: left, top, width and height in image pixels.
    box_score: the detector's confidence; None where a person was not detected (the client's boxes).
    """

    keypoints: FloatArray
    score: float
    box_xywh: Box
    box_score: float | None = None


class ScoredBox(NamedTuple):
    """Where somebody may be, and how sure that is, 0..1."""

    xywh: Box
    score: float


def person_score(keypoints: FloatArray, box_score: float | None) -> float:
    """Mean score of all keypoints, times the box's score where there is one.

    keypoints: [K, 3] as (x, y, score).
    """
    return float(keypoints[:, 2].mean()) * (1.0 if box_score is None else box_score)
