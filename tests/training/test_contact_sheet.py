"""The contact sheet: what is wrong comes first, people stand on their pixels."""

from pathlib import Path

import numpy as np

from heads.skeleton import COCO_17
from tests.training.damage import changed, entry
from training.contact_sheet import TILE, sheet
from training.doctor import examine
from training.synthetic import write_dataset


def test_a_sheet_shows_the_worst_first_and_people_on_their_pixels(tmp_path: Path) -> None:
    people = write_dataset(tmp_path, 5)
    (people.parent / "2.png").unlink()
    data = examine(changed(people, entry(num_keypoints=3)), people.parent)
    picture = sheet(data, tiles=3)
    assert picture.shape == (TILE, 3 * TILE, 3)
    missing, lying, whole = np.split(picture, 3, axis=1)
    # No photograph: grey, but for its words.
    assert (missing[TILE // 2] == 96).all()
    assert (lying != 96).any(axis=2).mean() > 0.5
    assert (whole == COCO_17.colours[16]).all(axis=2).any()
