"""What is asked of the pipeline and what it answers: plain values, no HTTP and no torch."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from heads.person import Box, Person
from heads.photo import Photo
from heads.skeleton import Skeleton

Image = npt.NDArray[np.uint8]
"""RGB uint8 [H, W, 3], upright."""


MAX_COORDINATE_PX = 1e6
"""No image has a side of a million pixels; larger numbers only breed overflows."""

ModelState = Literal["loaded", "available", "weights-missing"]


@dataclass(frozen=True)
class PoseOptions:
    """What a caller may choose for one photograph.

    boxes_xywh: one person each, answered in this order; None lets the network or detector look.
    threshold: people with a lower score are left out; None takes the network's own threshold
        (and 0 where boxes are given: then every box is answered).
    max_people: at most so many, best first.
    flip_test: also looks at the mirrored crop and averages; slower, slightly more exact.
    """

    boxes_xywh: tuple[Box, ...] | None = None
    threshold: float | None = None
    max_people: int = 100
    flip_test: bool = False


@dataclass(frozen=True, eq=False)
class PoseAnswer:
    """Everybody in one photograph.

    boxes_from: `client`, `detector:<name>` or `image`.
    timing_ms: `decode`, `detect`, `queue`, `network`, `total`.
    """

    model: str
    skeleton: Skeleton
    people: tuple[Person, ...]
    boxes_from: str
    image: Image | Photo
    timing_ms: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ClassScore:
    """A class and how likely it is."""

    index: int
    name: str
    probability: float


@dataclass(frozen=True, eq=False)
class ClassifyAnswer:
    """What a photograph shows, likeliest first.

    random_weights: True where the network was never trained, so the answer means nothing.
    """

    model: str
    classes: tuple[ClassScore, ...]
    random_weights: bool
    image: Image | Photo
    timing_ms: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class SegmentAnswer:
    """The class of every pixel.

    class_map: uint8 [H, W], the size of the upright image; an index into class_names and palette.
    """

    model: str
    class_names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    class_map: npt.NDArray[np.uint8]
    random_weights: bool
    image: Image | Photo
    timing_ms: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class DetectAnswer:
    """Where people are: boxes_xywh and scores, best first."""

    model: str
    boxes_xywh: tuple[Box, ...]
    scores: tuple[float, ...]
    image: Image | Photo
    timing_ms: dict[str, float] = field(default_factory=dict)
