"""Changes to a keypoint file, for tests of what is made of damaged ones."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Content = dict[str, Any]
Change = Callable[[Content], None]


def changed(path: Path, change: Change) -> Path:
    """The file with its content changed."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


def entry(**fields: Any) -> Change:
    """Changes fields of the first annotation."""
    return lambda content: content["annotations"][0].update(fields)


def image(**fields: Any) -> Change:
    """Changes fields of the first image."""
    return lambda content: content["images"][0].update(fields)


def keypoint(index: int, *values: float) -> Change:
    """Changes a keypoint of the first annotation: x, y, visibility."""

    def change(content: Content) -> None:
        content["annotations"][0]["keypoints"][3 * index : 3 * index + 3] = values

    return change


def swap(content: Content, number: int, pairs: tuple[tuple[int, int], ...]) -> None:
    """Swaps the labels of pairs of one annotation."""
    points = np.array(content["annotations"][number]["keypoints"]).reshape(-1, 3)
    for a, b in pairs:
        points[[a, b]] = points[[b, a]]
    content["annotations"][number]["keypoints"] = points.ravel().tolist()
