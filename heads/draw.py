"""People drawn into their picture: limbs, keypoints, boxes and scores.

Line widths follow the person's size, so that a face in a crowd and a portrait both stay legible.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from heads.image import Image
from heads.person import Box, Person
from heads.skeleton import Skeleton

KEYPOINT_THRESHOLD = 0.2
"""Keypoints below this are guesses; drawing them puts limbs where none are."""

BOX_COLOUR = (250, 250, 250)
OUTLINE = (24, 24, 28)
FONT = cv2.FONT_HERSHEY_DUPLEX

# Points are drawn with a sixteenth of a pixel (OpenCV's fixed-point `shift`).
_SHIFT = 4
_ONE = 1 << _SHIFT
_FAR_PX = 1e5


@dataclass(frozen=True)
class _Pen:
    """Widths in pixels for one person."""

    limb: int
    outline: int
    radius: float
    box: int

    @classmethod
    def for_person(cls, size_px: float, image: Image) -> "_Pen":
        """Widths for a person of this size, in bounds that the picture sets."""
        widest = max(2.0, 0.008 * max(image.shape[:2]))
        limb = float(np.clip(0.016 * size_px, 1.0, widest))
        return cls(
            limb=max(1, round(limb)),
            outline=max(1, round(limb)) + 2 * max(1, round(0.25 * limb)),
            radius=max(1.5, 0.95 * limb),
            box=max(1, round(0.4 * limb)),
        )


def draw_people(
    image: Image,
    people: Sequence[Person],
    skeleton: Skeleton,
    keypoint_threshold: float = KEYPOINT_THRESHOLD,
) -> Image:
    """A copy of the image with everybody drawn; the best person is drawn last, on top.

    keypoint_threshold: keypoints with a lower score, and limbs that end in one, are left out.
    """
    drawn = image.copy()
    for person in sorted(people, key=lambda p: p.score):
        pen = _Pen.for_person(_size_of(person, keypoint_threshold), image)
        _draw_box(drawn, person.box_xywh, person.score, pen)
        _draw_skeleton(drawn, person.keypoints, skeleton, keypoint_threshold, pen)
    return drawn


def draw_boxes(image: Image, boxes_xywh: Sequence[Box], scores: Sequence[float]) -> Image:
    """A copy of the image with boxes and their scores, the best on top."""
    drawn = image.copy()
    for box, score in sorted(zip(boxes_xywh, scores, strict=True), key=lambda pair: pair[1]):
        _draw_box(drawn, box, score, _Pen.for_person(max(box[2], box[3]), image))
    return drawn


def label(image: Image, text: str) -> Image:
    """A copy of the image with words in its upper left corner."""
    drawn = image.copy()
    _write(drawn, text, 0, 0, _Pen.for_person(max(image.shape[:2]), image))
    return drawn


def grid(pictures: Sequence[Image], columns: int = 6) -> Image:
    """Pictures of one size side by side, the last row filled up in grey."""
    columns = min(columns, len(pictures))
    missing = -len(pictures) % columns
    filled = [*pictures, *[np.full_like(pictures[0], 128)] * missing]
    rows = [np.hstack(filled[i : i + columns]) for i in range(0, len(filled), columns)]
    return np.asarray(np.vstack(rows), np.uint8)


def _draw_skeleton(
    drawn: Image,
    keypoints: npt.NDArray[np.float32],
    skeleton: Skeleton,
    threshold: float,
    pen: _Pen,
) -> None:
    shown = _shown(keypoints, threshold)
    edges = [(a, b) for a, b in skeleton.edges if shown[a] and shown[b]]
    ends = [(_fixed(keypoints[a]), _fixed(keypoints[b])) for a, b in edges]
    # All outlines first: a later limb must not cut an earlier one.
    for start, end in ends:
        cv2.line(drawn, start, end, OUTLINE, pen.outline, cv2.LINE_AA, _SHIFT)
    for (_, b), (start, end) in zip(edges, ends, strict=True):
        cv2.line(drawn, start, end, skeleton.colours[b], pen.limb, cv2.LINE_AA, _SHIFT)
    edge = (pen.outline - pen.limb) / 2
    for k in np.flatnonzero(shown):
        centre = _fixed(keypoints[k])
        for radius, colour in (
            (pen.radius + edge, OUTLINE),
            (pen.radius, (255, 255, 255)),
            (0.68 * pen.radius, skeleton.colours[k]),
        ):
            cv2.circle(drawn, centre, round(radius * _ONE), colour, -1, cv2.LINE_AA, _SHIFT)


def _draw_box(drawn: Image, box_xywh: Box, score: float, pen: _Pen) -> None:
    """Four corners of the box rather than its whole frame, and the score above it."""
    left, top, width, height = box_xywh
    arm = 0.18 * min(width, height)
    for x, inward_x in ((left, arm), (left + width, -arm)):
        for y, inward_y in ((top, arm), (top + height, -arm)):
            corner = np.array([[x + inward_x, y], [x, y], [x, y + inward_y]])
            points = [np.array([_fixed(point) for point in corner], np.int32)]
            cv2.polylines(drawn, points, False, OUTLINE, pen.box + 2, cv2.LINE_AA, _SHIFT)
            cv2.polylines(drawn, points, False, BOX_COLOUR, pen.box, cv2.LINE_AA, _SHIFT)
    _write(drawn, f"{score:.2f}", left, top, pen)


def _write(drawn: Image, text: str, left: float, top: float, pen: _Pen) -> None:
    """A label whose lower left corner is the box's upper left one, kept inside the picture."""
    scale = float(np.clip(0.14 * pen.limb + 0.16, 0.3, 2.5))
    thickness = max(1, round(scale * 1.2))
    (width, height), _ = cv2.getTextSize(text, FONT, scale, thickness)
    margin = max(2, round(5 * scale))
    image_height, image_width = drawn.shape[:2]
    x = int(np.clip(left, 0, max(0, image_width - width - 2 * margin)))
    y = int(np.clip(top, height + 2 * margin, image_height))
    corner = (x + width + 2 * margin, y - height - 2 * margin)
    cv2.rectangle(drawn, (x, y), corner, OUTLINE, -1)
    place = (x + margin, y - margin)
    cv2.putText(drawn, text, place, FONT, scale, BOX_COLOUR, thickness, cv2.LINE_AA)


def _size_of(person: Person, threshold: float) -> float:
    """Larger side of what is drawn: the visible keypoints, or the box where there are too few."""
    points = person.keypoints[_shown(person.keypoints, threshold), :2]
    if len(points) < 3:
        return max(person.box_xywh[2], person.box_xywh[3])
    return float(np.ptp(points, axis=0).max())


def _shown(keypoints: npt.NDArray[np.float32], threshold: float) -> npt.NDArray[np.bool_]:
    """Which keypoints are sure enough, and near enough to be drawn."""
    with np.errstate(invalid="ignore"):  # comparing NaN is False, which is what is meant
        near = (np.abs(keypoints[:, :2]) < _FAR_PX).all(axis=1)
        return np.asarray(near & (keypoints[:, 2] >= threshold), np.bool_)


def _fixed(point: npt.NDArray[np.floating]) -> tuple[int, int]:
    """A point in OpenCV's fixed-point numbers."""
    x, y = np.clip(point[:2], -_FAR_PX, _FAR_PX)
    return round(float(x) * _ONE), round(float(y) * _ONE)


def draw_classes(
    image: Image, class_map: npt.NDArray[np.uint8], palette: Sequence[tuple[int, int, int]]
) -> Image:
    """A copy of the image under the colours of its pixels' classes."""
    colours, drawn = np.array(palette, np.uint8), np.empty_like(image)
    for row in range(len(image)):  # all colours at once would be one more picture in memory
        cv2.addWeighted(image[row], 0.5, colours[class_map[row]], 0.5, 0, dst=drawn[row])
    return drawn
