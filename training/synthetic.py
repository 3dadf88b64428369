"""Drawn people with exact labels: for tests and for smoke runs without photographs."""

import json
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import numpy.typing as npt
import typer

from heads.image import Image, encode_image
from heads.skeleton import COCO_17

FloatArray = npt.NDArray[np.float32]

# Where each keypoint of a person who faces us stands, as shares of the box.
_POSE = np.array(
    [
        (0.50, 0.10), (0.55, 0.07), (0.45, 0.07), (0.60, 0.09), (0.40, 0.09), (0.68, 0.24),
        (0.32, 0.24), (0.80, 0.40), (0.20, 0.40), (0.85, 0.55), (0.15, 0.55), (0.60, 0.55),
        (0.40, 0.55), (0.63, 0.75), (0.37, 0.75), (0.64, 0.95), (0.36, 0.95),
    ],
    np.float32,
)  # fmt: skip


def draw_person(image: Image, box_xywh: tuple[float, float, float, float], seed: int) -> FloatArray:
    """Draws a person into the box, in place; returns keypoints [17, 2] in pixels."""
    rng = np.random.default_rng(seed)
    left, top, width, height = box_xywh
    shares = _POSE + rng.uniform(-0.05, 0.05, _POSE.shape).astype(np.float32)
    points = np.asarray(shares.clip(0.02, 0.98) * [width, height] + [left, top], np.float32)
    thickness = max(1, round(0.03 * height))
    for a, b in COCO_17.edges:
        ends = [(round(float(x)), round(float(y))) for x, y in (points[a], points[b])]
        cv2.line(image, ends[0], ends[1], COCO_17.colours[b], thickness)
    for point, colour in zip(points, COCO_17.colours, strict=True):
        middle = (round(float(point[0])), round(float(point[1])))
        cv2.circle(image, middle, thickness, colour, -1)
    return points


def write_dataset(
    folder: Path, images: int, size: tuple[int, int] = (96, 72), people: int = 1
) -> Path:
    """A COCO keypoint file `people.json` and its images; returns the file's path.

    size: (height, width) of the place of each person.  people: in each image, side by side.
    """
    height, width = size
    folder.mkdir(parents=True, exist_ok=True)
    entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for i in range(1, images + 1):
        image = np.full((height, people * width, 3), 40 + 20 * (i % 5), np.uint8)
        for place in range(people):
            box = ((place + 0.1) * width, 0.05 * height, 0.8 * width, 0.9 * height)
            number = len(annotations) + 1
            points = draw_person(image, box, seed=number)
            keypoints = np.column_stack([points, np.full(17, 2)])
            annotations.append(
                {
                    "id": number, "image_id": i, "category_id": 1, "iscrowd": 0,
                    "num_keypoints": 17, "bbox": list(box), "area": 0.5 * box[2] * box[3],
                    "keypoints": [float(v) for v in keypoints.ravel()],
                }
            )  # fmt: skip
        (folder / f"{i}.png").write_bytes(encode_image(image, "png"))
        sides = {"width": image.shape[1], "height": image.shape[0]}
        entries.append({"id": i, "file_name": f"{i}.png"} | sides)
    category = {
        "id": 1,
        "name": "person",
        "keypoints": list(COCO_17.keypoints),
        "skeleton": [[a + 1, b + 1] for a, b in COCO_17.edges],
    }
    content = {"images": entries, "annotations": annotations, "categories": [category]}
    path = folder / "people.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def main(
    folder: Annotated[
        Path, typer.Argument(help="Where people.json and the images go.", file_okay=False)
    ],
    images: Annotated[int, typer.Option(min=1, help="Images to draw.")] = 60,
    people: Annotated[int, typer.Option(min=1, help="People in each.")] = 1,
) -> None:
    """Write drawn people as a COCO keypoint file and its images: for a first run of a recipe."""
    typer.echo(write_dataset(folder, images, (192, 144), people))


if __name__ == "__main__":
    typer.run(main)
