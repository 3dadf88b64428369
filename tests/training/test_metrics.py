"""PCK, PCKh, AUC and EPE of people small enough to measure by hand."""

from dataclasses import replace

import numpy as np
import pytest

from heads.skeleton import COCO_17, Skeleton
from training.metrics import AUC_SHARES, Distances, auc, distances, epe, pck, pckh

HAND = Skeleton(name="hand", keypoints=("wrist", "tip"))


def person(*away: float, box: float = 100.0, head: float = 0.0, torso: float = 0.0) -> Distances:
    labelled = np.ones(len(away), np.bool_)
    return Distances(np.array(away), labelled, torso, head, box)


def test_distances_and_lengths_of_a_person() -> None:
    truth = np.zeros((17, 3))
    for name, x, y in (
        ("left_ear", 10, 0), ("right_ear", 0, 0), ("left_shoulder", 20, 10),
        ("right_shoulder", 0, 10), ("left_hip", 15, 50), ("right_hip", 5, 50),
    ):  # fmt: skip
        truth[COCO_17.keypoints.index(name)] = (x, y, 2)
    found = truth + np.array([3, 4, 0])
    measured = distances(truth, found, (0, 0, 30, 60), COCO_17)
    assert measured.away == pytest.approx(5)
    assert measured.labelled.sum() == 6
    assert measured.head == pytest.approx(15)  # one and a half times the ears' distance
    assert measured.torso == pytest.approx(np.hypot(15, 40))
    assert measured.box == 60
    assert np.isinf(distances(truth, None, (0, 0, 30, 60), COCO_17).away).all()


def test_lengths_that_are_not_labelled_are_nothing() -> None:
    measured = distances(np.zeros((17, 3)), None, (0, 0, 1, 1), COCO_17)
    assert (measured.head, measured.torso) == (0, 0)


def test_a_head_is_measured_where_its_ends_are_labelled() -> None:
    body = Skeleton(name="mpii", keypoints=("head_top", "neck"))
    truth = np.array([[0.0, 0.0, 2], [0.0, 30.0, 2]])
    assert distances(truth, None, (0, 0, 9, 9), body).head == 30


def test_a_head_ends_at_mpiis_upper_neck() -> None:
    mpii = Skeleton(name="mpii", keypoints=("upper_neck", "head_top", "neck"))
    truth = np.array([[10.0, 50, 2], [10, 20, 2], [10, 60, 2]])
    assert distances(truth, None, (0, 0, 99, 99), mpii).head == 30


def test_pck_counts_keypoints_within_a_fifth_of_the_reference() -> None:
    found = pck([person(19.0, 21.0), person(0.0, np.inf)], HAND)
    assert found.reference == "box"
    assert found.share == 0.5
    assert found.by_keypoint == {"wrist": 1.0, "tip": 0.0}
    of_torso = [replace(person(*[9.0] * 17), torso=t) for t in (50.0, 40.0, 0.0)]
    found = pck(of_torso, COCO_17)
    assert (found.reference, found.share) == ("torso", 0.5)  # nobody knows the third one's torso
    assert pck(of_torso[2:], COCO_17).share is None


def test_pckh_counts_keypoints_within_half_a_head() -> None:
    assert pckh([person(9.0, 11.0, head=20.0), person(1.0, 1.0)]) == 0.5
    assert pckh([person(1.0)]) is None


def test_auc_is_the_mean_of_pck_over_the_reach() -> None:
    assert auc([person(0.0)]) == 1
    assert auc([person(np.inf)]) == 0
    assert auc([person(10.0)]) == pytest.approx(np.mean(AUC_SHARES >= 0.1 - 1e-9))
    assert auc([]) is None


def test_epe_is_the_mean_distance_of_those_who_were_answered_for() -> None:
    assert epe([person(1.0, 3.0), person(np.inf, np.inf), person(5.0)]) == 3
    hidden = replace(person(1.0, 99.0), labelled=np.array([True, False]))
    assert epe([hidden]) == 1
    assert epe([person(np.inf)]) is None
    assert epe([]) is None
