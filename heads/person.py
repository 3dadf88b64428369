"""What every path through the library answers with: people, each with named keypoints."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
"""float32 array; the docstring at hand gives its shape."""


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
    box_xywh: tuple[float, float, float, float]
    box_score: float | None = None


COUNTED_SCORE = 0.2
"""Keypoints below this do not count for a person's score (official HRNet evaluation)."""


def person_score(keypoints: FloatArray, box_score: float | None) -> float:
    """Mean score of the keypoints that count, times the box's score where there is one.

    keypoints: [K, 3] as (x, y, score). 0 where no keypoint counts.
    """
    scores = keypoints[:, 2]
    counted = scores[scores > COUNTED_SCORE]
    mean = float(counted.mean()) if counted.size else 0.0
    return mean * (1.0 if box_score is None else box_score)
