"""Boxes are looked for coarsely first, and closely where that is not enough: by a fake network."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pydantic import ValidationError

from heads.center_codec import CenterCodec
from heads.geometry import Crop
from heads.person import Box, ScoredBox
from heads.photo import Photo
from heads.spec import BackboneSpec, CenterHead, Glance, NetworkSpec, View
from service.inference.answers import Image
from service.inference.batcher import Ran
from service.inference.job import Job
from service.inference.pipeline import PeopleNetwork

COARSE, FINE = 64, 128
HEIGHT, WIDTH = 256, 384

LARGE: Box = (40.0, 20.0, 100.0, 200.0)
SMALL: Box = (280.0, 100.0, 30.0, 60.0)

SPEC = NetworkSpec(
    name="seer",
    task="people",
    backbone=BackboneSpec(name="mobilenet_v2"),
    head=CenterHead(boxes=True, max_people=9),
    input_size=(128, 128),
    view=View(short_side=FINE, max_long=256, glance=Glance(short_side=COARSE)),
)


class Seer:
    """In the place of a batcher: sees given boxes, others in the coarse and in the fine view."""

    def __init__(self, coarse: Sequence[ScoredBox], fine: Sequence[ScoredBox] = ()) -> None:
        self.seen = {COARSE: coarse, FINE: fine}
        self.sides: list[int] = []

    def run(self, images: Sequence[Image], _: Job) -> list[Ran]:
        """Maps that say where the boxes are."""
        (image,) = images
        side = image.shape[0]
        self.sides.append(side)
        view = SPEC.whole((HEIGHT, WIDTH), side)
        return [Ran(center_maps(self.seen[side], view), queue_ms=1.0, network_ms=2.0)]


def center_maps(boxes: Sequence[ScoredBox], view: Crop) -> dict[str, npt.NDArray[np.float32]]:
    """Maps of somebody's middle and size; each of another column."""
    h, w = (side // 4 for side in view.input_size)
    maps = {
        "center": np.full((1, h, w), -99.0, np.float32),
        "box_scale": np.zeros((2, h, w), np.float32),
        "box_offset": np.zeros((2, h, w), np.float32),
    }
    codec = CenterCodec()
    for (x, y, width, height), score in boxes:
        (x0, y0), (x1, y1) = codec.to_cells(
            view.to_input(np.array([[x, y], [x + width, y + height]]))
        )
        row, column = int((y0 + y1) / 2), int((x0 + x1) / 2)
        maps["center"][0, row, column] = np.log(score / (1 - score))
        maps["box_scale"][:, row, column] = y1 - y0, x1 - x0
        maps["box_offset"][:, row, column] = (y0 + y1) / 2 - row, (x0 + x1) / 2 - column
    return maps


def look(seer: Any, spec: NetworkSpec = SPEC) -> list[ScoredBox]:
    photo = Photo.of(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    return PeopleNetwork(spec, seer).boxes(photo, Job())[0]


def assert_boxes(found: Sequence[ScoredBox], expected: Sequence[ScoredBox]) -> None:
    np.testing.assert_allclose([b.score for b in found], [b.score for b in expected], atol=1e-4)
    np.testing.assert_allclose([b.xywh for b in found], [b.xywh for b in expected], atol=0.01)


def test_a_glance_is_enough_where_everybody_is_large() -> None:
    seer = Seer(coarse=[ScoredBox(LARGE, 0.6)])
    assert_boxes(look(seer), [ScoredBox(LARGE, 0.6)])
    assert seer.sides == [COARSE]


def test_what_it_is_not_sure_of_calls_for_no_second_look() -> None:
    seer = Seer(coarse=[ScoredBox(LARGE, 0.6), ScoredBox(SMALL, 0.1)])
    assert_boxes(look(seer), [ScoredBox(LARGE, 0.6), ScoredBox(SMALL, 0.1)])
    assert seer.sides == [COARSE]


def test_somebody_small_is_looked_at_closely_and_the_large_box_stays() -> None:
    near = (SMALL[0] + 2, SMALL[1] - 3, *SMALL[2:])
    shrunk = (LARGE[0], LARGE[1], LARGE[2], 0.8 * LARGE[3])
    seer = Seer(
        coarse=[ScoredBox(LARGE, 0.6), ScoredBox(SMALL, 0.3)],
        fine=[ScoredBox(near, 0.7), ScoredBox(shrunk, 0.65)],
    )
    assert_boxes(look(seer), [ScoredBox(near, 0.7), ScoredBox(LARGE, 0.6)])
    assert seer.sides == [COARSE, FINE]


@pytest.mark.parametrize("coarse", [[], [ScoredBox(LARGE, 0.1)]])
def test_where_nobody_is_sure_to_be_there_is_a_closer_look(coarse: list[ScoredBox]) -> None:
    seer = Seer(coarse=coarse, fine=[ScoredBox(SMALL, 0.4)])
    assert_boxes(look(seer), [ScoredBox(SMALL, 0.4)])
    assert seer.sides == [COARSE, FINE]


def test_nobody_in_both_looks_is_nobody() -> None:
    seer = Seer(coarse=[])
    assert look(seer) == []
    assert seer.sides == [COARSE, FINE]


def test_two_looks_take_their_times_together() -> None:
    photo = Photo.of(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    seer: Any = Seer(coarse=[])
    _, timing = PeopleNetwork(SPEC, seer).boxes(photo, Job())
    assert (timing.queue, timing.network) == (2.0, 4.0)


def test_without_a_glance_there_is_one_look() -> None:
    view = View(short_side=FINE, max_long=256)
    seer = Seer(coarse=[], fine=[ScoredBox(LARGE, 0.5)])
    assert_boxes(look(seer, SPEC.model_copy(update={"view": view})), [ScoredBox(LARGE, 0.5)])
    assert seer.sides == [FINE]


def test_a_panorama_is_as_narrow_in_both_looks() -> None:
    coarse, fine = (SPEC.whole((100, 800), side) for side in (COARSE, FINE))
    assert (coarse.input_size[1], fine.input_size[1]) == (128, 256)


def test_a_glance_is_coarser_than_the_view() -> None:
    with pytest.raises(ValidationError, match="coarser than the view of 128"):
        View(short_side=FINE, glance=Glance(short_side=FINE))
