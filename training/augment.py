"""Random views of a person for training: one warp a sample, by the same geometry as inference."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from heads.geometry import BOX_PADDING, Alignment, Crop, Size, antialiased, flip_points
from heads.image import Image, warp
from heads.skeleton import Skeleton

FloatArray = npt.NDArray[np.float32]
Box = tuple[float, float, float, float]

UPPER_BODY = ("nose", "eye", "ear", "head", "neck", "thorax", "shoulder", "elbow", "wrist")
"""Parts of keypoint names that belong to the upper half of a body."""

MIN_WHOLE_BODY, MIN_HALF_BODY = 9, 3
"""So many labelled keypoints a body and its half need, to be worth a view of half a body."""

HALF_BODY_PADDING = 1.5
"""A view of half a body shows this much more than its keypoints (official HRNet code)."""

TURNED_BODY_PADDING = 1.2
"""A box round a body that was turned is this much larger than its keypoints: hands, feet, hair."""


@dataclass(frozen=True)
class Augmentation:
    """What is varied, and how far; the defaults follow the official HRNet training.

    scale: the crop shows between 1 - scale and 1 + scale times what it would.
    rotation_deg: at most so far, with half of it as the spread, in 60 % of the views.
    upright: how often someone who leans by more than rotation_deg is stood on their feet first.
        Gymnasts and sleepers then teach what a body looks like, and not that heads may be anywhere.
    shift: share of the box.  flip, half_body: how often.
    colour: how far brightness, contrast and each channel vary.
    blur, dropout: how often the view is unsharp, and how often a piece of it is grey.
    """

    skeleton: Skeleton
    input_size: Size
    alignment: Alignment = "udp"
    scale: float = 0.35
    rotation_deg: float = 45.0
    upright: float = 0.0
    shift: float = 0.05
    flip: float = 0.5
    half_body: float = 0.3
    colour: float = 0.2
    blur: float = 0.0
    dropout: float = 0.0

    def apply(
        self,
        image: Image,
        box_xywh: Box,
        keypoints: FloatArray,
        weights: FloatArray,
        rng: np.random.Generator,
    ) -> tuple[Image, FloatArray, FloatArray]:
        """A view uint8 [H, W, 3], keypoints [K, 2] in its pixels, and their weights [K]."""
        turn = 0.0
        lean = self._lean_deg(keypoints, weights)
        if self.upright and abs(lean) > self.rotation_deg and rng.random() < self.upright:
            turn, box_xywh = lean, _turned_box(keypoints[weights > 0], lean)
        elif rng.random() < self.half_body and (weights > 0).sum() >= MIN_WHOLE_BODY:
            box_xywh = self._half_body(box_xywh, keypoints, weights, rng)
        left, top, width, height = box_xywh
        zoom = BOX_PADDING * (1 + self.scale * float(np.clip(rng.normal(), -1, 1)))
        if rng.random() < 0.6:
            turn += float(np.clip(rng.normal() / 2, -1, 1)) * self.rotation_deg
        moved = (
            left + self.shift * width * rng.uniform(-1, 1),
            top + self.shift * height * rng.uniform(-1, 1),
            width,
            height,
        )
        crop = Crop.around(
            moved,
            self.input_size,
            alignment=self.alignment,
            padding=zoom,
            rotation_deg=turn,
        )
        mirrored = rng.random() < self.flip
        seen = crop.mirrored() if mirrored else crop
        view = warp(image, seen, antialias=antialiased(self.alignment))
        points = crop.to_input(keypoints).astype(np.float32)
        if mirrored:
            points = flip_points(points, self.input_size[1], self.skeleton.flip_order)
            weights = weights[list(self.skeleton.flip_order)]
        view = self._damaged(recoloured(view, self.colour, rng), rng)
        return view, np.asarray(points, np.float32), weights

    def _lean_deg(self, keypoints: FloatArray, weights: FloatArray) -> float:
        """How far the trunk leans clockwise; 0 where no shoulder or no hip is labelled."""
        shoulders, hips = (
            np.array([part in name for name in self.skeleton.keypoints]) & (weights > 0)
            for part in ("shoulder", "hip")
        )
        if not (shoulders.any() and hips.any()):
            return 0.0
        right, down = keypoints[shoulders].mean(axis=0) - keypoints[hips].mean(axis=0)
        return math.degrees(math.atan2(right, -down))

    def _half_body(
        self, box: Box, keypoints: FloatArray, weights: FloatArray, rng: np.random.Generator
    ) -> Box:
        """A box round the labelled keypoints of a half that has enough, the drawn one first."""
        upper = np.array([any(p in n for p in UPPER_BODY) for n in self.skeleton.keypoints])
        drawn = upper if rng.random() < 0.5 else ~upper
        halves = (half & (weights > 0) for half in (drawn, ~drawn))
        half = next((half for half in halves if half.sum() >= MIN_HALF_BODY), None)
        if half is None:
            return box
        low, high = keypoints[half].min(axis=0), keypoints[half].max(axis=0)
        size = np.maximum((high - low) * HALF_BODY_PADDING / BOX_PADDING, 8)
        start = keypoints[half].mean(axis=0) - size / 2
        return (float(start[0]), float(start[1]), float(size[0]), float(size[1]))

    def _damaged(self, view: Image, rng: np.random.Generator) -> Image:
        """Blurred by a random width, and a rectangle of up to 0.4 x 0.4 of the sides made grey.

        A keypoint under the rectangle keeps its label: hidden ones are labelled in COCO too.
        """
        if rng.random() < self.blur:
            view = np.asarray(cv2.GaussianBlur(view, (0, 0), rng.uniform(0.5, 2.0)), np.uint8)
        if rng.random() < self.dropout:
            sides = np.array(self.input_size)
            size = np.ceil(sides * rng.uniform(0.1, 0.4, 2)).astype(int)
            top, left = (rng.random(2) * (sides - size)).astype(int)
            view = view.copy()
            view[top : top + size[0], left : left + size[1]] = 128
        return view


def _turned_box(points: FloatArray, turn_deg: float) -> Box:
    """The box of points [P, 2] as a crop turned by turn_deg sees it, about its middle there."""
    turned = Crop.around((0, 0, 1, 1), (2, 2), padding=1.0, rotation_deg=turn_deg)  # scale 1
    seen = turned.to_input(points)
    low, high = seen.min(axis=0), seen.max(axis=0)
    middle = turned.to_image((low + high) / 2)
    size = np.maximum((high - low) * TURNED_BODY_PADDING, 8)
    left, top = middle - size / 2
    return (float(left), float(top), float(size[0]), float(size[1]))


def recoloured(view: Image, colour: float, rng: np.random.Generator) -> Image:
    """Contrast, brightness and each channel moved by up to `colour`, by one table a channel."""
    if colour == 0:
        return view
    levels = np.arange(256, dtype=np.float32)
    contrast = 1 + colour * rng.uniform(-1, 1)
    gains = contrast * (1 + colour / 2 * rng.uniform(-1, 1, 3))
    offset = 128 * colour * rng.uniform(-1, 1)
    tables = ((levels[:, None] - 128) * gains + 128 + offset).clip(0, 255).astype(np.uint8)
    return np.stack([tables[view[..., c], c] for c in range(3)], axis=2)
