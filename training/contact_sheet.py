"""A contact sheet of a data set: people drawn as labelled, the worst findings first."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from heads.draw import draw_people, grid, label
from heads.errors import ImageError
from heads.geometry import Crop
from heads.image import Image, read_image, warp
from heads.person import Person
from heads.skeleton import Skeleton
from training.doctor import Examined
from training.errors import DataError
from training.findings import Finding, Labelled, is_id

TILE = 256


def sheet(data: Examined, tiles: int = 48, seed: int = 0) -> Image:
    """A picture of drawn people: the worst findings first, one of each kind in turn, then others.

    Returns RGB uint8; a tile is of TILE pixels, with its finding and the annotation's id. The
    number at a box is the share of keypoints with a label.
    """
    found = _in_turn(data.report.findings)
    shown = [(f, data.people.get(f.annotation)) for f in found][:tiles]
    taken = {f.annotation for f, _ in shown}
    labelled = [person for person in data.people.values() if person.labelled.any()]
    others = [person for person in labelled if person.id not in taken]
    rng = np.random.default_rng(seed)
    free = min(len(others), tiles - len(shown))
    picked: Iterable[int] = rng.choice(len(others), free, replace=False) if free else []
    drawn = [_tile(data, person, finding) for finding, person in shown]
    drawn += [_tile(data, others[i], None) for i in picked]
    if not drawn:
        raise DataError(f"{data.report.data} has nobody to draw")
    return grid(drawn, 8)


def _in_turn(findings: Sequence[Finding]) -> list[Finding]:
    """One finding of each kind, then a second one of each, in order of how bad the kinds are."""
    groups: dict[tuple[str, str], list[Finding]] = defaultdict(list)
    for finding in findings:
        groups[finding.level, finding.kind].append(finding)
    ranked = [(n, i, f) for i, g in enumerate(groups.values()) for n, f in enumerate(g)]
    return [f for _, _, f in sorted(ranked, key=lambda entry: entry[:2])]


def _tile(data: Examined, person: Labelled | None, finding: Finding | None) -> Image:
    """One person in TILE x TILE pixels; grey where there is nobody or no photograph."""
    text: str = "" if finding is None else finding.kind
    tile = np.full((TILE, TILE, 3), 96, np.uint8)
    image = person.image if person is not None else finding.image if finding is not None else None
    name = data.files.get(image) if is_id(image) else None
    if name is not None:
        try:
            tile = _drawn(read_image(data.folder / name), person, data.skeleton)
        except ImageError:
            text += " (no image)"
    key = person.id if person is not None else finding.annotation if finding is not None else None
    return label(tile, f"{'' if key is None else f'{key} '}{text}".strip() or "-")


def _drawn(image: Image, person: Labelled | None, skeleton: Skeleton) -> Image:
    height, width = image.shape[:2]
    if person is None:
        return warp(image, Crop.around((0, 0, width, height), (TILE, TILE), padding=1.0))
    points = person.keypoints[person.labelled, :2]
    left, top, box_width, box_height = person.box_xywh
    corners = [*points, (left, top), (left + box_width, top + box_height)]
    # Never farther than one image beyond the image: a keypoint at 10**6 would hide everything else.
    low = np.maximum(np.min(corners, axis=0), [-width, -height])
    high = np.minimum(np.max(corners, axis=0), [2 * width, 2 * height])
    shown = np.maximum(high - low, 4.0)
    crop = Crop.around((*low, *shown), (TILE, TILE), padding=1.15)
    keypoints = np.column_stack([crop.to_input(person.keypoints[:, :2]), person.labelled])
    start, end = crop.to_input(np.array([[left, top], [left + box_width, top + box_height]]))
    box = (*start.tolist(), *(end - start).tolist())
    drawn = Person(keypoints.astype(np.float32), float(person.labelled.mean()), box)
    return draw_people(warp(image, crop), [drawn], skeleton)
