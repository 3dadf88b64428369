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


EARS = {"name": "cat", "keypoints": ["ear_a", "tail", "ear_b"]}


def test_a_coco_category_may_say_its_own_sigmas_and_mirror_pairs() -> None:
    fields = {"sigmas": [0.02, 0.1, 0.02], "flip_pairs": [["ear_b", "ear_a"]]}
    skeleton = Skeleton.from_coco_category(EARS | fields)
    assert skeleton.sigmas == (0.02, 0.1, 0.02)
    assert skeleton.flip_order == (2, 1, 0)


def test_what_a_category_says_goes_before_what_its_names_say() -> None:
    cat = {"name": "cat", "keypoints": ["left_ear", "right_ear"]}
    assert Skeleton.from_coco_category(cat | {"flip_pairs": []}).flip_pairs == ()
    assert Skeleton.from_coco_category(cat | {"flip_pairs": None}).flip_pairs == ((0, 1),)
    person = {"name": "person", "keypoints": list(COCO_17.keypoints), "sigmas": [0.1] * 17}
    skeleton = Skeleton.from_coco_category(person)
    assert skeleton == COCO_17.model_copy(update={"sigmas": (0.1,) * 17})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sigmas": [0.1]}, "3 keypoints need 3 sigmas"),
        ({"sigmas": []}, "3 keypoints need 3 sigmas"),
        ({"sigmas": [0.1, 0.1, 0]}, "positive and finite"),
        ({"sigmas": [0.1, 0.1, float("nan")]}, "positive and finite"),
        ({"sigmas": [0.1, 0.1, float("inf")]}, "positive and finite"),
        ({"sigmas": [0.1, 0.1, "wide"]}, "sigmas"),
        ({"sigmas": 0.1}, "sigmas"),
        ({"flip_pairs": "ear_a"}, "a list of pairs of names; got 'ear_a'"),
        ({"flip_pairs": ["ab"]}, "two names each; got 'ab'"),
        ({"flip_pairs": [["ear_a"]]}, r"two names each; got \['ear_a'\]"),
        ({"flip_pairs": [["ear_a", "ear_c"]]}, "'ear_c', which is none of the keypoints"),
        ({"flip_pairs": [["ear_a", 2]]}, "2, which is none of the keypoints"),
        ({"flip_pairs": [["tail", "tail"]]}, "flip_pairs has"),
        ({"flip_pairs": [["ear_a", "tail"], ["tail", "ear_b"]]}, "stands in two flip_pairs"),
        ({"keypoints": 3}, "not iterable"),
        ({"skeleton": [["ear_a", "tail"]]}, "skeleton is pairs of numbers from 1"),
    ],
)
def test_a_bad_category_is_refused_in_words(fields: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=rf"^category 'cat' has no skeleton: .*{message}"):
        Skeleton.from_coco_category(EARS | fields)
