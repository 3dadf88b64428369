"""Left and right: swapped ones are found, crossed limbs are left alone."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from heads.skeleton import COCO_17
from tests.training.damage import Change, Content, changed, swap
from training.doctor import examine, problems
from training.sides import swapped_sides
from training.synthetic import write_dataset
from training.synthetic_objects import write_plants


@pytest.fixture
def people(tmp_path: Path) -> Path:
    return write_dataset(tmp_path, 5)


@pytest.mark.parametrize(
    ("pairs", "reason"),
    [
        (COCO_17.flip_pairs, "all swapped, or face not seen"),
        (COCO_17.flip_pairs[2:], "point against the other pairs"),
        (((5, 6),), "left_shoulder/right_shoulder point against the other pairs"),
        (((11, 12),), "left_hip/right_hip point against the other pairs"),
    ],
)
def test_swapped_sides_of_people_are_found(
    people: Path, pairs: tuple[tuple[int, int], ...], reason: str
) -> None:
    # Drawn faces are smaller than people label exactly, so the eyes are moved apart.
    def change(content: Content) -> None:
        for number in range(5):
            points = np.array(content["annotations"][number]["keypoints"]).reshape(17, 3)
            points[:3, :2] = [[36, 18], [44, 10], [28, 10]]
            content["annotations"][number]["keypoints"] = points.ravel().tolist()
        swap(content, 3, pairs)

    report = problems(changed(people, change), people.parent)
    assert [(f.kind, f.level, f.annotation) for f in report.findings] == [
        ("sides-swapped", "warning", 4)
    ]
    assert reason in report.findings[0].reason


def test_crossed_legs_and_hands_are_no_finding(people: Path) -> None:
    change: Change = lambda content: swap(content, 0, ((9, 10), (13, 14), (15, 16)))  # noqa: E731
    assert problems(changed(people, change), people.parent).findings == ()


def test_the_sides_of_other_bodies_are_learned_from_the_data(tmp_path: Path) -> None:
    plants = write_plants(tmp_path, 80)
    assert problems(plants, tmp_path / "images").findings == ()
    report = problems(
        changed(plants, lambda content: swap(content, 7, ((3, 4),))), tmp_path / "images"
    )
    assert [(f.kind, f.annotation) for f in report.findings] == [("sides-swapped", 8)]


@pytest.mark.parametrize(
    ("pairs", "needed", "share"),
    [(COCO_17.flip_pairs, (0, 1, 2), 0.95), (COCO_17.flip_pairs[2:], (1, 2, 5, 6), 0.97)],
)
def test_swapped_copies_of_photographed_people_are_found(
    shared: Path, pairs: tuple[tuple[int, int], ...], needed: tuple[int, ...], share: float
) -> None:
    folder = shared / "data" / "val"
    if not folder.is_dir():
        pytest.skip("the data (../shared/data) is not here")
    data = examine(folder / "val.json", folder / "images", pixels=False)
    copies = []
    for person in data.people.values():
        if person.labelled[list(needed)].all():
            points = person.keypoints.copy()
            for a, b in pairs:
                points[[a, b]] = points[[b, a]]
            copies.append(replace(person, keypoints=points))
    assert len(copies) > 50
    assert len(list(swapped_sides(copies, COCO_17))) >= share * len(copies)
