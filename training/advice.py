"""What to set for keypoints of one's own: mirror pairs, and how exactly people label (sigmas)."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from heads.skeleton import COCO_17, DEFAULT_SIGMA, Skeleton
from training.findings import Labelled
from training.repeats import measured_sigmas

MIRROR_LEAST = 50
"""Keypoints are each other's mirror image where so many of them are labelled."""

Pairs = tuple[tuple[str, str], ...]

_GIVEN = "the file's category"
_OTHER = {"left": "right", "right": "left"}
_SHORT = {"l": "left", "r": "right"}


class KeypointCount(BaseModel):
    """How often a keypoint is labelled (visible and hidden), and how exactly: see `sigma_from`."""

    model_config = ConfigDict(frozen=True)

    name: str
    labelled: int
    visible: int
    hidden: int
    sigma: float
    sigma_from: str


def count_keypoints(
    people: Sequence[Labelled], skeleton: Skeleton, given: bool = False
) -> tuple[KeypointCount, ...]:
    """Counts, and the sigmas to use. given: the file's category has sigmas of its own."""
    seen = np.zeros((3, len(skeleton.keypoints)), np.int64)
    for person in people:
        for visibility in (1, 2):
            seen[visibility] += person.keypoints[:, 2] == visibility
    measured = measured_sigmas(people, skeleton)
    counts = []
    for k, name in enumerate(skeleton.keypoints):
        otherwise = (skeleton.sigmas[k], _GIVEN) if given else _sigma_by_name(name)
        sigma, source = measured.get(k) or otherwise
        hidden, visible = seen[1:, k].tolist()
        counts.append(
            KeypointCount(
                name=name,
                labelled=hidden + visible,
                visible=visible,
                hidden=hidden,
                sigma=round(sigma, 4),
                sigma_from=source,
            )
        )
    return tuple(counts)


def flip_pairs(
    skeleton: Skeleton, people: Sequence[Labelled], given: bool = False
) -> tuple[Pairs, str]:
    """Names that probably change places in a mirror, left first, and how they were found.

    given: the file's category has mirror pairs of its own.
    """
    names = skeleton.keypoints
    known = tuple((names[a], names[b]) for a, b in skeleton.flip_pairs)
    if given:
        return known, _GIVEN
    if pairs := _pairs_by_name(names):
        if {frozenset(pair) for pair in known} != {frozenset(pair) for pair in pairs}:
            reason = "names; training finds only left_x with right_x: write them into the category"
            return pairs, reason
        return pairs, "names"
    if pairs := tuple((names[a], names[b]) for a, b in _mirrored(people, len(names))):
        return pairs, "the data is symmetric; write them into the category to train with them"
    return (), "none: no names with left and right, and no symmetry"


def category_fields(
    skeleton: Skeleton, keypoints: Sequence[KeypointCount], pairs: Pairs
) -> dict[str, Any]:
    """What to write into the file's category, for training and evaluation to use what was found.

    Empty where they use it as the file is; see `Skeleton.from_coco_category`.
    """
    fields: dict[str, Any] = {}
    sigmas = [k.sigma for k in keypoints]
    if sigmas != [round(sigma, 4) for sigma in skeleton.sigmas]:
        fields["sigmas"] = sigmas
    names = skeleton.keypoints
    known = {frozenset((names[a], names[b])) for a, b in skeleton.flip_pairs}
    if {frozenset(pair) for pair in pairs} != known:
        fields["flip_pairs"] = [list(pair) for pair in pairs]
    return fields


def given_fields(category: Mapping[str, Any]) -> tuple[bool, bool]:
    """Whether a category has sigmas and mirror pairs of its own."""
    return (category.get("sigmas") is not None, category.get("flip_pairs") is not None)


def _sigma_by_name(name: str) -> tuple[float, str]:
    known = "_".join(_words(name))
    if known in COCO_17.keypoints:
        return COCO_17.sigmas[COCO_17.keypoints.index(known)], "COCO's of this name"
    reason = "default, between COCO's eyes and shoulders: nobody is labelled twice"
    return DEFAULT_SIGMA, reason


def _words(name: str) -> list[str]:
    """`L_Eye`, `leftEye`, `left-eye`, `eye_l` -> words, with l and r written out."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=^[LR])(?=[A-Z][a-z])", "_", name)
    words = [word.lower() for word in re.split(r"[^A-Za-z0-9]+", spaced) if word]
    return [_SHORT.get(word, word) for word in words]


def _pairs_by_name(names: Sequence[str]) -> Pairs:
    by_words = {tuple(_words(name)): name for name in names}
    pairs = []
    for words, name in by_words.items():
        partner = by_words.get(tuple(_OTHER.get(word, word) for word in words))
        if partner is not None and partner != name and "left" in words:
            pairs.append((name, partner))
    return tuple(pairs)


def _mirrored(people: Sequence[Labelled], count: int) -> list[tuple[int, int]]:
    """Keypoints whose mean places in the box are each other's mirror image; right side first.

    What lies on the viewer's right comes first, as the left of a body that faces us does.
    """
    total, seen = np.zeros((count, 2)), np.zeros(count)
    for person in people:
        left, top, width, height = person.box_xywh
        share = (person.keypoints[:, :2] - [left + width / 2, top]) / [width, height]
        total += share * person.labelled[:, None]
        seen += person.labelled
    mean = total / np.maximum(seen, 1)[:, None]
    mirror = mean * [-1, 1]
    away = np.linalg.norm(mean[:, None] - mirror[None], axis=2)
    away[seen < MIRROR_LEAST] = np.inf
    away[:, seen < MIRROR_LEAST] = np.inf
    best = away.argmin(axis=1)
    return [
        (a, int(b))
        for a, b in enumerate(best)
        if best[b] == a and mean[a, 0] > 0.03 and mean[b, 0] < -0.03 and away[a, b] < 0.05
    ]
