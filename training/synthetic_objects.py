"""Drawn potted plants with exact labels: a data set that shows no people.

    python -m training.synthetic_objects plants        # train.json, val.json, images/

A plant has five keypoints: pot (the middle of its rim), stem (where the leaves sprout), flower (the
middle of the blossom), left_leaf and right_leaf (their tips, on the viewer's left and right). The
pot is placed, the stem leans, the leaves hang or rise, one leaf may be hidden behind a card.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import numpy.typing as npt
import typer

from heads.image import Image, encode_image
from training.checks import BOX_AREA_SHARE

FloatArray = npt.NDArray[np.floating]

PLANT = {
    "id": 1,
    "name": "plant",
    "keypoints": ["pot", "stem", "flower", "left_leaf", "right_leaf"],
    "skeleton": [[1, 2], [2, 3], [2, 4], [2, 5]],
}
"""The category as it stands in a COCO file; `skeleton` counts from 1."""

_CLAY, _GREEN, _LEAF, _PETAL, _CARD = (
    (176, 98, 60), (60, 130, 50), (80, 170, 70), (235, 90, 150), (120, 120, 140),
)  # fmt: skip


def draw_plant(image: Image, foot: tuple[float, float], height: float, seed: int) -> FloatArray:
    """Draws a plant that stands on `foot`, in place; returns keypoints [5, 3] as (x, y, v)."""
    rng = np.random.default_rng(seed)
    lean, bend = rng.uniform(-0.2, 0.2, 2)
    pot = np.array([foot[0], foot[1] - 0.25 * height])
    stem = pot + height * np.array([0.5 * lean, -0.25])
    flower = stem + height * np.array([lean + bend, -0.4])
    tips = [
        stem + height * np.array([side * rng.uniform(0.25, 0.38), rng.uniform(-0.2, 0.15)])
        for side in (-1, 1)
    ]
    thin = max(1, round(0.03 * height))
    half = 0.13 * height
    sides = half * np.array([[-1, 0], [1, 0], [0.65, 0], [-0.65, 0]])
    clay = sides + np.array([pot, pot, foot, foot])
    cv2.fillPoly(image, [np.round(clay).astype(np.int32)], _CLAY, cv2.LINE_AA)
    for start, end in ((pot, stem), (stem, flower)):
        cv2.line(image, _pixel(start), _pixel(end), _GREEN, thin, cv2.LINE_AA)
    for tip in tips:
        _draw_leaf(image, stem, tip)
    for angle in np.arange(6) * np.pi / 3:
        petal = flower + 0.06 * height * np.array([np.cos(angle), np.sin(angle)])
        cv2.circle(image, _pixel(petal), max(1, round(0.05 * height)), _PETAL, -1, cv2.LINE_AA)
    cv2.circle(image, _pixel(flower), max(1, round(0.04 * height)), (250, 210, 60), -1, cv2.LINE_AA)
    visibility = np.full(5, 2)
    if rng.random() < 0.2:
        hidden = int(rng.integers(2))
        card = 0.08 * height
        cv2.rectangle(image, _pixel(tips[hidden] - card), _pixel(tips[hidden] + card), _CARD, -1)
        visibility[3 + hidden] = 1
    return np.column_stack([[pot, stem, flower, *tips], visibility]).astype(np.float32)


def _draw_leaf(image: Image, start: FloatArray, tip: FloatArray) -> None:
    """An ellipse from the stem to the tip."""
    middle, along = (start + tip) / 2, tip - start
    length = float(np.linalg.norm(along))
    axes = (round(length / 2), max(1, round(0.16 * length)))
    angle = float(np.degrees(np.arctan2(along[1], along[0])))
    cv2.ellipse(image, _pixel(middle), axes, angle, 0, 360, _LEAF, -1, cv2.LINE_AA)


def _pixel(point: FloatArray) -> tuple[int, int]:
    return round(float(point[0])), round(float(point[1]))


def write_plants(
    folder: Path, photographs: int, name: str = "train", size: tuple[int, int] = (160, 240)
) -> Path:
    """Images of one or two plants and the COCO keypoint file `name`.json; returns its path.

    size: (height, width) of the images.
    """
    height, width = size
    (folder / "images").mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(1, photographs + 1):
        rng = np.random.default_rng([number, *name.encode()])
        image = _background(rng, size)
        plants = int(rng.integers(1, 3))
        for place in range(plants):
            tall = height * rng.uniform(0.55, 0.8)
            x = width * (place + 0.5 + rng.uniform(-0.08, 0.08)) / plants
            foot = (float(x), float(height * rng.uniform(0.88, 0.96)))
            points = draw_plant(image, foot, tall, int(rng.integers(2**31)))
            entry = {"id": len(annotations) + 1, "image_id": number}
            annotations.append(entry | _annotation(points, foot, tall, size))
        file_name = f"{name}_{number:04d}.png"
        (folder / "images" / file_name).write_bytes(encode_image(image, "png"))
        images.append({"id": number, "file_name": file_name, "width": width, "height": height})
    path = folder / f"{name}.json"
    content = {"images": images, "annotations": annotations, "categories": [PLANT]}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def _background(rng: np.random.Generator, size: tuple[int, int]) -> Image:
    """A wall, and the table that the pots stand on."""
    image = np.full((*size, 3), rng.integers(150, 240, 3), np.uint8)
    image[round(0.85 * size[0]) :] = rng.integers(60, 140, 3)
    noise = rng.normal(0, 6, image.shape)
    return np.asarray((image + noise).clip(0, 255), np.uint8)


def _annotation(
    points: FloatArray, foot: Sequence[float], height: float, size: tuple[int, int]
) -> dict[str, Any]:
    """COCO's fields of a plant; the box holds the pot and the blossom too, and ends at the image's.

    A tip beyond the image has no label.
    """
    last = [size[1] - 1, size[0] - 1]
    inside = (points[:, :2].clip(0, last) == points[:, :2]).all(axis=1)
    points = np.where(inside[:, None], points, 0)
    shown = [*points[inside, :2], np.array(foot), points[2, :2] - 0.11 * height]
    low = np.maximum(np.min(shown, axis=0) - 0.02 * height, 0)
    high = np.minimum(np.max(shown, axis=0) + 0.02 * height, [size[1], size[0]])
    box = [*low.tolist(), *(high - low).tolist()]
    return {
        "category_id": 1,
        "iscrowd": 0,
        "num_keypoints": int(inside.sum()),
        "bbox": [round(value, 2) for value in box],
        "area": round(BOX_AREA_SHARE * box[2] * box[3], 2),
        "keypoints": [round(float(value), 2) for value in points.ravel()],
    }


def main(
    folder: Annotated[
        Path, typer.Argument(help="Where train.json, val.json and images/ go.", file_okay=False)
    ],
    train: Annotated[int, typer.Option(min=1, help="Images to train on.")] = 200,
    val: Annotated[int, typer.Option(min=1, help="Images to measure on.")] = 40,
) -> None:
    """Write drawn plants as two COCO keypoint files and their images."""
    for name, count in (("train", train), ("val", val)):
        typer.echo(write_plants(folder, count, name))


if __name__ == "__main__":
    typer.run(main)
