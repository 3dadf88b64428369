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


def person_score(keypoints: FloatArray, box_score: float | None) -> float:
    """Mean score of all keypoints, times the box's score where there is one.

    keypoints: [K, 3] as (x, y, score).
    """
    return float(keypoints[:, 2].mean()) * (1.0 if box_score is None else box_score)
