"""Left and right held against each other: whose sides are probably swapped.

Two pairs of the trunk that point against each other, or a face that goes round the wrong way. For
COCO's people these rules are known; for other bodies they are learned from the data set, as far as
nearly everybody in it follows them. A pair counts where it is longer than its labels are exact (by
the sigmas). Measured on COCO's own labels in the project's data (1017 people, train and val):

- as they are 9 are reported (0.9 %; none of the 160 in val), heads turned far round among them;
- with all sides swapped 92 % of 660 people with nose, eye, and second eye or ear; 66 % of all 797
  with two pairs: without a face one cannot tell a back from a front;
- with all but the face swapped 99 % of 448; eyes alone 99 %, ears 99 %, elbows 95 %, shoulders
  92 %, hips 87 %; knees, ankles and wrists cross, so nothing is said about them.

Copies are of people who are not reported as they are, and one pair is swapped where two of the
trunk are labelled. How long a pair must be and how high a face (SURE_LENGTH, SURE_HEIGHT) were
chosen from five settings tried on these same people, so other data may do a little worse.
Of 10510 people whose faces a network labelled 5.1 % are reported: among 31 looked at, many have a
face put on a head seen from behind.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
import numpy.typing as npt

from heads.skeleton import COCO_17, Skeleton
from training.findings import FloatArray, Labelled

SURE_LENGTH = 1.5
"""A pair tells left from right where it is so many spreads of its labels long."""
SURE_COSINE = 0.5
SURE_HEIGHT = 1.0
"""Three points tell one way round from the other where their triangle is so many spreads high."""
LEARN_LEAST, LEARN_SHARE = 50, 0.95
"""A rule of sides is learned from so many people, of whom so many agree."""


@dataclass(frozen=True)
class _Along:
    """Two pairs that point the same way (sign 1) in nearly everybody, or against each other."""

    first: int
    second: int
    sign: int = 1


@dataclass(frozen=True)
class _Turn:
    """Three points (each the mean of some) that go round one way (sign) in nearly everybody.

    without: a keypoint that must not be labelled; -1: none.
    """

    corners: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    sign: int
    without: int = -1


# People's pairs that point the same way however they stand; knees and below cross, wrists too.
_TRUNK = ("eye", "ear", "shoulder", "elbow", "hip")


@dataclass(frozen=True)
class _Sides:
    """What is known about left and right of one kind of body, and how to look at a person."""

    skeleton: Skeleton
    along: tuple[_Along, ...]
    turns: tuple[_Turn, ...]

    @cached_property
    def spread(self) -> FloatArray:
        """[P], how exactly a pair's ends are labelled, as a share of the root of the area."""
        squares = np.array(self.skeleton.sigmas)[np.array(self.skeleton.flip_pairs)] ** 2
        return np.asarray(np.sqrt(squares.mean(axis=1)))


def swapped_sides(people: Sequence[Labelled], skeleton: Skeleton) -> Iterator[tuple[Labelled, str]]:
    """People whose left and right are probably swapped, and why; see this module's docstring."""
    if not skeleton.flip_pairs or not people:
        return
    points = np.array([p.keypoints for p in people])  # [N, K, 3]
    roots = np.sqrt([p.area for p in people])
    rules = _known_sides(skeleton) or _learned_sides(skeleton, points, roots)
    names = rules.skeleton.keypoints
    pairs = [f"{names[a]}/{names[b]}" for a, b in rules.skeleton.flip_pairs]
    votes = np.zeros((len(people), len(pairs), 2), np.int64)  # for and against each pair
    for rule in rules.along:
        said = _along(rules, rule.first, rule.second, points, roots) * rule.sign
        for pair in (rule.first, rule.second):
            votes[:, pair, 0] += said > 0
            votes[:, pair, 1] += said < 0
    turns = np.zeros((len(people), 2), np.int64)
    for turn in rules.turns:
        said = _turn(rules, turn, points, roots) * turn.sign
        turns[:, 0] += said > 0
        turns[:, 1] += said < 0
    for person, vote, turn_vote in zip(people, votes, turns, strict=True):
        against = np.flatnonzero(vote[:, 1] > vote[:, 0]).tolist()
        if against:
            yield person, f"{' and '.join(pairs[i] for i in against)} point against the other pairs"
        elif turn_vote[1] > turn_vote[0]:
            yield person, _throughout(rules)


def _throughout(rules: _Sides) -> str:
    if rules.skeleton.keypoints == COCO_17.keypoints:
        return "the left eye is where a seen face has its right one: all swapped, or face not seen?"
    return "its order of left and right is that of a mirror image of the others: all sides swapped?"


def _known_sides(skeleton: Skeleton) -> _Sides | None:
    """The rules of COCO's people."""
    if skeleton.keypoints != COCO_17.keypoints:
        return None
    # Whatever pairs the file names, and in whatever order: what these keypoints are is known.
    skeleton = COCO_17
    order = {skeleton.keypoints[a]: i for i, (a, _) in enumerate(skeleton.flip_pairs)}
    trunk = [order[f"left_{name}"] for name in _TRUNK]
    along = tuple(_Along(i, j) for i, j in combinations(trunk, 2))
    nose, left_eye, right_eye, left_ear, right_ear = ((k,) for k in range(5))
    turns = (
        # Both eyes and the nose are seen from the front alone. From the side one sees the ear of
        # that side; were the other one labelled too, somebody has guessed it.
        _Turn((left_eye, right_eye, nose), -1),
        _Turn((left_ear, left_eye, nose), -1, without=4),
        _Turn((right_ear, right_eye, nose), 1, without=3),
    )
    return _Sides(skeleton, along, turns)


def _learned_sides(skeleton: Skeleton, points: FloatArray, roots: FloatArray) -> _Sides:
    """The rules that nearly everybody in the data follows."""
    rules = _Sides(skeleton, (), ())
    pairs = skeleton.flip_pairs
    along, turns = [], []
    for i, j in combinations(range(len(pairs)), 2):
        if sign := _agreed(_along(rules, i, j, points, roots)):
            along.append(_Along(i, j, sign))
    paired = {end for pair in pairs for end in pair}
    thirds = [*pairs, *((k,) for k in range(len(skeleton.keypoints)) if k not in paired)]
    for a, b in pairs:
        for third in thirds:
            turn = _Turn(((a,), (b,), third), 1)
            if (a, b) != third and (sign := _agreed(_turn(rules, turn, points, roots))):
                turns.append(_Turn(turn.corners, sign))
    return _Sides(skeleton, tuple(along), tuple(turns))


def _agreed(said: FloatArray) -> int:
    """The sign that nearly all have who say one; 0 where too few do."""
    spoken = int(np.abs(said).sum())
    if spoken < LEARN_LEAST or abs(said.sum()) < (2 * LEARN_SHARE - 1) * spoken:
        return 0
    return int(np.sign(said.sum()))


def _pair(
    rules: _Sides, index: int, points: FloatArray, roots: FloatArray
) -> tuple[FloatArray, FloatArray, npt.NDArray[np.bool_]]:
    """Right to left [N, 2], its length [N], and whether it is long enough to say something."""
    a, b = rules.skeleton.flip_pairs[index]
    vector = points[:, a, :2] - points[:, b, :2]
    length = np.linalg.norm(vector, axis=1)
    labelled = (points[:, a, 2] > 0) & (points[:, b, 2] > 0)
    sure = labelled & (length > SURE_LENGTH * rules.spread[index] * roots)
    return vector, length, np.asarray(sure)


def _along(rules: _Sides, i: int, j: int, points: FloatArray, roots: FloatArray) -> FloatArray:
    """[N], 1 where two pairs point the same way, -1 against each other, 0 where nobody can say."""
    first, first_length, first_sure = _pair(rules, i, points, roots)
    second, second_length, second_sure = _pair(rules, j, points, roots)
    cosine = (first * second).sum(axis=1) / np.maximum(first_length * second_length, 1e-9)
    return np.asarray(np.sign(cosine) * (first_sure & second_sure & (np.abs(cosine) > SURE_COSINE)))


def _turn(rules: _Sides, turn: _Turn, points: FloatArray, roots: FloatArray) -> FloatArray:
    """[N], 1 where three points go round with the clock, -1 against it, 0 where nobody can say."""
    used = [k for corner in turn.corners for k in corner]
    a, b, c = (points[:, list(corner), :2].mean(axis=1) for corner in turn.corners)
    first, second = b - a, c - a
    cross = first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]
    longest = np.max([np.linalg.norm(side, axis=1) for side in (first, second, c - b)], axis=0)
    known = (points[:, used, 2] > 0).all(axis=1)
    if turn.without >= 0:
        known &= points[:, turn.without, 2] == 0
    spread = np.array(rules.skeleton.sigmas)[used].mean()
    return np.asarray(
        np.sign(cross) * (known & (np.abs(cross) > SURE_HEIGHT * spread * roots * longest))
    )
