"""What a look through a data set collects: findings by kind, and people as far as they are read."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

FloatArray = npt.NDArray[np.float64]
Level = Literal["error", "warning"]

Kind = Literal[
    "nobody", "label-file", "entry", "duplicate-id", "unknown-image", "missing-image",
    "unreadable-image", "image-size", "keypoints-length", "not-finite", "visibility", "scores",
    "box", "box-outside", "keypoint-outside", "same-person", "sides-swapped",
    "box-misses-keypoints", "box-clipped", "num-keypoints", "categories", "unknown-category",
    "shared-image",
]  # fmt: skip
"""Everything that can be wrong; the worst first, which is the order of the contact sheet."""

Say = Callable[[Level, Kind, str], None]
"""Adds a finding, with its reason, about what is being looked at."""


class Finding(BaseModel):
    """One thing that is wrong. image, annotation: ids as they stand in the file."""

    model_config = ConfigDict(frozen=True)

    level: Level
    kind: Kind
    reason: str
    file: str = ""
    image: Any = None
    annotation: Any = None

    def __str__(self) -> str:
        """Where and what: `0004.png, annotation 4: the box is 0 x 90 pixels`."""
        name = "" if self.annotation is None else f"annotation {self.annotation}"
        where = ", ".join(part for part in (self.file, name) if part)
        return f"{where}: {self.reason}" if where else self.reason

    @property
    def rank(self) -> tuple[bool, int]:
        """Lower is worse."""
        return (self.level == "warning", get_args(Kind).index(self.kind))


@dataclass
class Findings:
    """Collects findings; knows the names of images."""

    names: dict[Any, str] = field(default_factory=dict)
    found: list[Finding] = field(default_factory=list)

    def add(
        self, level: Level, kind: Kind, reason: str, image: Any = None, annotation: Any = None
    ) -> None:
        """Adds one, about an image or an annotation of one, or about the whole file."""
        file = self.names.get(image, "") if is_id(image) else ""
        self.found.append(
            Finding(
                level=level, kind=kind, reason=reason, file=file, image=image, annotation=annotation
            )
        )

    def about(self, image: Any, annotation: Any = None) -> Say:
        """`add` for one image or annotation."""
        return partial(self.add, image=image, annotation=annotation)


@dataclass(frozen=True)
class Labelled:
    """One person as far as it can be read: keypoints [K, 3], area in square pixels."""

    id: Any
    image: Any
    keypoints: FloatArray
    box_xywh: tuple[float, float, float, float]
    area: float

    @property
    def labelled(self) -> npt.NDArray[np.bool_]:
        """[K], which keypoints have a label."""
        return np.asarray(self.keypoints[:, 2] > 0, np.bool_)


@dataclass(frozen=True)
class Sound:
    """What of a keypoint file is read where its errors are left out.

    images: ids of those that are.  bad_annotations: ids of those that are not.
    """

    images: frozenset[Any]
    bad_annotations: frozenset[Any]

    def part_of(self, content: Any) -> Any:
        """A COCO keypoint file's content without what is bad."""
        images = [i for i in content["images"] if _known(i, "id", self.images)]
        annotations = [
            a
            for a in content["annotations"]
            if _known(a, "image_id", self.images)
            and is_id(a.get("id"))
            and a["id"] not in self.bad_annotations
        ]
        return {**content, "images": images, "annotations": annotations}


def _known(entry: Any, key: str, ids: frozenset[Any]) -> bool:
    return isinstance(entry, dict) and is_id(entry.get(key)) and entry[key] in ids


def is_id(value: Any) -> bool:
    """True for what can be an id: a number or a text."""
    return isinstance(value, int | str)
