"""Skeletons: COCO's, one's own, and words where one does not hold together."""

from pathlib import Path

import pytest

from heads.skeleton import COCO_17, DEFAULT_SIGMA, Skeleton
from models.errors import SpecError


def test_coco_pairs_are_left_and_right() -> None:
    for a, b in COCO_17.flip_pairs:
        assert COCO_17.keypoints[a].replace("left", "right") == COCO_17.keypoints[b]
    order = COCO_17.flip_order
    assert [order[i] for i in order] == list(range(17))


def test_a_toml_file_may_use_names(tmp_path: Path) -> None:
    path = tmp_path / "hand.toml"
    path.write_text(
        'name = "arm"\nkeypoints = ["left_hand", "elbow", "right_hand"]\n'
        'edges = [["left_hand", "elbow"], [1, 2]]\nflip_pairs = [["left_hand", "right_hand"]]\n'
    )
    skeleton = Skeleton.from_toml(path)
    assert skeleton.edges == ((0, 1), (1, 2))
    assert skeleton.flip_order == (2, 1, 0)
    assert skeleton.sigmas == (DEFAULT_SIGMA,) * 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", "is no skeleton"),
        ('name = "x"\nkeypoints = ["a", "a"]', "different names"),
        ('name = "x"\nkeypoints = ["a", "b"]\nedges = [["a", "c"]]', "is no skeleton"),
        ('name = "x"\nkeypoints = ["a", "b"]\nedges = [[0, 2]]', "run from 0 to 1"),
        ('name = "x"\nkeypoints = ["a", "b"]\nsigmas = [0.1]', "2 keypoints need 2 sigmas"),
        ('name = "x"\nkeypoints = ["a", "b"]\nsigmas = [0.1, 0]', "positive"),
    ],
)
def test_a_bad_file_is_refused_in_words(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(SpecError, match=message):
        Skeleton.from_toml(path)


def test_a_coco_category_counts_from_one() -> None:
    skeleton = Skeleton.from_coco_category(
        {
            "name": "cat",
            "keypoints": ["left_ear", "right_ear", "tail"],
            "skeleton": [[1, 2], [2, 3]],
        }
    )
    assert skeleton.edges == ((0, 1), (1, 2))
    assert skeleton.flip_pairs == ((0, 1),)


def test_cocos_own_category_is_coco_17() -> None:
    category = {"name": "person", "keypoints": list(COCO_17.keypoints), "skeleton": [[1, 2]]}
    assert Skeleton.from_coco_category(category) == COCO_17
