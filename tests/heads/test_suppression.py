"""OKS, box overlap and suppression against the official numbers."""

from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heads.suppression import (
    box_iou,
    box_nms,
    oks,
    oks_nms,
    rescore_and_suppress,
    soft_oks_nms,
)
from models.errors import ShapeError


def people_of(case: Any) -> tuple[Any, Any, Any]:
    people = case["people"]
    score = "score" if "score" in people[0] else "box_score"
    return (
        np.array([p["keypoints"] for p in people]),
        np.array([p[score] for p in people]),
        np.array([p["area"] for p in people]),
    )


def test_similarity_is_the_official_one(legacy: Any) -> None:
    for case in legacy["legacy"]["oks"]:
        keypoints, _, areas = people_of(case)
        np.testing.assert_allclose(oks(keypoints, areas), case["oks_matrix"], rtol=2e-6)
        np.testing.assert_allclose(
            oks(keypoints, areas, min_score=0.2), case["oks_matrix_in_vis_0.2"], rtol=2e-6
        )


@pytest.mark.parametrize("threshold", ["0.9", "0.7", "0.5"])
def test_suppression_keeps_what_the_official_code_keeps(legacy: Any, threshold: str) -> None:
    for case in legacy["legacy"]["oks"]:
        people = people_of(case)
        assert oks_nms(*people, float(threshold)) == case[f"oks_nms_{threshold}"]
        assert soft_oks_nms(*people, float(threshold)) == case[f"soft_oks_nms_{threshold}"]


def test_box_suppression_keeps_what_the_official_code_keeps(legacy: Any) -> None:
    case = legacy["legacy"]["box_nms"]
    boxes = np.array(case["boxes"])
    for threshold, kept in case["keep"].items():
        assert box_nms(boxes[:, :4], boxes[:, 4], float(threshold)) == kept


def test_rescoring_is_the_official_one(legacy: Any) -> None:
    for case in legacy["legacy"]["rescore_and_nms"]:
        keypoints, box_scores, areas = people_of(case)
        ids = np.array(case["image_id"])
        for image, expected in zip(case["images_in_order"], case["kept"], strict=True):
            here = np.flatnonzero(ids == image)
            kept = rescore_and_suppress(
                keypoints[here],
                box_scores[here],
                areas[here],
                min_score=case["in_vis_thre"],
                threshold=case["oks_thre"],
                soft=case["soft_nms"],
            )
            assert [here[k.index] for k in kept] == [e["index"] for e in expected]
            np.testing.assert_allclose(
                [k.score for k in kept], [e["score"] for e in expected], rtol=1e-6
            )


def test_a_person_is_fully_like_itself_and_nobody_is_no_error() -> None:
    person = np.random.default_rng(0).uniform(0, 100, (1, 17, 3))
    np.testing.assert_allclose(oks(person, np.array([5000.0])), [[1.0]])
    assert oks_nms(np.zeros((0, 17, 3)), np.zeros(0), np.zeros(0), 0.9) == []
    assert box_nms(np.zeros((0, 4)), np.zeros(0), 0.5) == []


def test_boxes_overlap_by_their_common_share() -> None:
    boxes = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30], [3, 3, 3, 3.0]])
    overlap = box_iou(boxes)
    assert overlap[0, 1] == pytest.approx(50 / 150)
    assert overlap[0, 2] == 0
    assert overlap[0, 0] == 1
    assert overlap[3, 3] == 0  # no area, no overlap, no division by zero


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"\[N, 17, 3\]; got \(2, 5, 3\)"):
        oks(np.zeros((2, 5, 3)), np.ones(2))


Crowd = tuple[Any, Any, Any]


@st.composite
def crowds(draw: st.DrawFn) -> Crowd:
    """Up to eight people near each other: keypoints [N, 17, 3], different scores, areas."""
    count = draw(st.integers(1, 8))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    person = rng.uniform(0, 100, (1, 17, 3))
    spread = draw(st.sampled_from([0.0, 2.0, 10.0, 40.0]))
    keypoints = person + rng.normal(0, spread, (count, 17, 3))
    return keypoints, rng.permutation(count) + rng.uniform(0, 0.5), rng.uniform(2e3, 8e3, count)


@given(crowds())
def test_likeness_is_a_share_the_same_both_ways_and_at_any_size(people: Crowd) -> None:
    keypoints, _, areas = people
    similar = oks(keypoints, areas)
    assert ((similar >= 0) & (similar <= 1)).all()
    np.testing.assert_allclose(similar, similar.T)
    np.testing.assert_allclose(np.diag(similar), 1)
    np.testing.assert_allclose(oks(keypoints * 3 + 7, areas * 9), similar, rtol=1e-9)


@given(crowds(), st.sampled_from([0.3, 0.7, 0.9]))
def test_who_stays_is_unlike_the_others_and_who_goes_is_like_a_better_one(
    people: Crowd, threshold: float
) -> None:
    keypoints, scores, areas = people
    similar = oks(keypoints, areas)
    kept = oks_nms(keypoints, scores, areas, threshold)
    assert sorted(kept, key=lambda i: -scores[i]) == kept
    assert all(similar[a, b] <= threshold for a in kept for b in kept if a != b)
    for gone in set(range(len(scores))) - set(kept):
        assert any(similar[k, gone] > threshold and scores[k] > scores[gone] for k in kept)


@given(crowds(), st.randoms(use_true_random=False))
def test_the_order_of_the_list_does_not_matter(people: Crowd, random: Random) -> None:
    order = list(range(len(people[1])))
    random.shuffle(order)
    keypoints, scores, areas = people
    shuffled = (keypoints[order], scores[order], areas[order])
    for suppress in (oks_nms, soft_oks_nms):
        kept = suppress(*people, threshold=0.7)
        assert [order[i] for i in suppress(*shuffled, threshold=0.7)] == kept


@given(crowds())
def test_soft_suppression_loses_nobody_and_starts_with_the_best(people: Crowd) -> None:
    kept = soft_oks_nms(*people, threshold=0.7)
    assert sorted(kept) == list(range(len(people[1])))
    assert kept[0] == people[1].argmax()
    assert soft_oks_nms(*people, threshold=0.7, max_people=2) == kept[:2]


def test_rescoring_leaves_out_weak_keypoints_and_nobody_is_no_error() -> None:
    keypoints = np.zeros((1, 17, 3))
    keypoints[0, :4, 2] = [0.2, 0.1, 0.6, 0.8]  # 0.2 is not above 0.2
    (kept,) = rescore_and_suppress(keypoints, np.array([0.5]), np.array([100.0]))
    assert kept.score == pytest.approx(0.5 * (0.6 + 0.8) / 2)
    assert rescore_and_suppress(np.zeros((0, 17, 3)), np.zeros(0), np.zeros(0)) == []
