"""The keypoints of a kind of body: names, edges, mirror pairs, and how exactly people label."""

import math
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from heads.validation import first_reason
from models.errors import SpecError

Colour = tuple[int, int, int]
"""Red, green, blue, 0 to 255."""

DEFAULT_SIGMA = 0.05
"""For keypoints nobody measured: between COCO's shoulders (0.079) and eyes (0.025)."""


class Skeleton(BaseModel):
    """K named keypoints and what belongs to them.

    edges: pairs of indices that a drawing joins.
    flip_pairs: pairs of indices that change places when the image is mirrored.
    sigmas: per keypoint, the spread of human labels as a share of the person's size (OKS).
    colours: one per keypoint; an edge is drawn in the colour of its second end.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    keypoints: tuple[str, ...]
    edges: tuple[tuple[int, int], ...] = ()
    flip_pairs: tuple[tuple[int, int], ...] = ()
    sigmas: tuple[float, ...] = ()
    colours: tuple[Colour, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _fill_defaults(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        count = len(data.get("keypoints", ()))
        filled = dict(data)
        filled["sigmas"] = data.get("sigmas") or (DEFAULT_SIGMA,) * count
        filled["colours"] = data.get("colours") or tuple(
            _PALETTE[i % len(_PALETTE)] for i in range(count)
        )
        return filled

    @model_validator(mode="after")
    def _check(self) -> Self:
        count = len(self.keypoints)
        if not count or len(set(self.keypoints)) != count:
            raise ValueError("keypoints must be a list of different names")
        for field in ("sigmas", "colours"):
            if len(getattr(self, field)) != count:
                raise ValueError(f"{count} keypoints need {count} {field}")
        if not all(0 < sigma < math.inf for sigma in self.sigmas):
            raise ValueError("sigmas must be positive and finite")
        for field in ("edges", "flip_pairs"):
            for pair in getattr(self, field):
                if not all(0 <= index < count for index in pair) or pair[0] == pair[1]:
                    raise ValueError(f"{field} has {pair}; indices run from 0 to {count - 1}")
        flipped = [index for pair in self.flip_pairs for index in pair]
        if len(set(flipped)) != len(flipped):
            raise ValueError("a keypoint stands in two flip_pairs")
        return self

    @property
    def flip_order(self) -> tuple[int, ...]:
        """Index of the mirror partner of each keypoint; its own where it has none."""
        order = list(range(len(self.keypoints)))
        for a, b in self.flip_pairs:
            order[a], order[b] = b, a
        return tuple(order)

    @classmethod
    def from_toml(cls, path: Path) -> Self:
        """Reads a TOML file with the fields above; edges and flip_pairs may use names."""
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8-sig"))
            index = {name: i for i, name in enumerate(data.get("keypoints", ()))}
            for field in ("edges", "flip_pairs"):
                data[field] = [
                    [index.get(end, end) for end in pair] for pair in data.get(field, ())
                ]
            return cls.model_validate(data)
        except (tomllib.TOMLDecodeError, ValidationError, UnicodeDecodeError, TypeError) as error:
            raise SpecError(f"{path.name} is no skeleton: {error}") from error

    @classmethod
    def from_coco_category(cls, category: Mapping[str, Any]) -> Self:
        """Reads an entry of a COCO file's `categories`, whose `skeleton` counts from 1.

        Fields beside COCO's: `sigmas`, one a keypoint, and `flip_pairs`, pairs of names. Without
        them sigmas are COCO's for COCO's 17, and left_x changes places with right_x.
        Raises SpecError, which names the category and the field.
        """
        try:
            names = tuple(category.get("keypoints", ()))
            given = {
                field: category[field]
                for field in ("sigmas", "flip_pairs")
                if category.get(field) is not None
            }
            if names == COCO_17.keypoints:
                fields = COCO_17.model_dump()
            else:
                edges = _edges(category.get("skeleton") or ())
                name = category.get("name") or "custom"
                pairs = _pairs_by_name(names)
                fields = {"name": name, "keypoints": names, "edges": edges, "flip_pairs": pairs}
            if "flip_pairs" in given:
                given["flip_pairs"] = _indices(given["flip_pairs"], names)
            if "sigmas" in given and not given["sigmas"]:
                raise ValueError(f"{len(names)} keypoints need {len(names)} sigmas")
            return cls.model_validate(fields | given)
        except (TypeError, ValueError) as error:
            raise SpecError(
                f"category {category.get('name')!r} has no skeleton: {_reason(error)}"
            ) from error


def _reason(error: TypeError | ValueError) -> str:
    """What is wrong in one line; of what pydantic finds, the first."""
    return first_reason(error) if isinstance(error, ValidationError) else str(error)


def _pairs_by_name(names: Sequence[str]) -> list[tuple[int, int]]:
    index = {name: i for i, name in enumerate(names)}
    return [
        (i, index[name.replace("left", "right", 1)])
        for i, name in enumerate(names)
        if "left" in name and name.replace("left", "right", 1) in index
    ]


def _edges(pairs: Any) -> list[tuple[int, int]]:
    try:
        return [(a - 1, b - 1) for a, b in pairs]
    except (TypeError, ValueError) as error:
        raise ValueError(f"skeleton is pairs of numbers from 1; got {pairs!r}") from error


def _indices(pairs: Any, names: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs of names as pairs of their places; ValueError for anything else."""
    if not isinstance(pairs, list | tuple):
        raise ValueError(f"flip_pairs is a list of pairs of names; got {pairs!r}")
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise ValueError(f"flip_pairs are two names each; got {pair!r}")
        if unknown := [end for end in pair if end not in names]:
            raise ValueError(f"flip_pairs has {unknown[0]!r}, which is none of the keypoints")
    return [(names.index(a), names.index(b)) for a, b in pairs]


_PALETTE: tuple[Colour, ...] = (
    (230, 25, 75), (60, 180, 75), (255, 225, 25), (0, 130, 200), (245, 130, 48),
    (145, 30, 180), (70, 240, 240), (240, 50, 230), (210, 245, 60), (250, 190, 212),
)  # fmt: skip

# Left is orange, right is blue, the middle is green: swapped sides show at a glance.
_LEFT, _RIGHT, _MIDDLE = (255, 140, 0), (30, 144, 255), (50, 205, 50)

COCO_17 = Skeleton(
    name="coco_17",
    keypoints=(
        "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder",
        "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist",
        "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle",
    ),
    edges=(
        (0, 1), (0, 2), (1, 3), (2, 4), (5, 6), (5, 7), (7, 9), (6, 8), (8, 10),
        (11, 5), (12, 6), (11, 12), (11, 13), (13, 15), (12, 14), (14, 16),
    ),
    flip_pairs=((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16)),
    # The spread of repeated labels that the COCO authors measured (cocodataset.org).
    sigmas=(
        0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072,
        0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089,
    ),
    colours=(_MIDDLE, *((_LEFT, _RIGHT) * 8)),
)  # fmt: skip
"""The 17 keypoints of COCO people; left and right are the person's own."""
