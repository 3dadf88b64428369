"""Geometry of the official code, by hand: what the reference material shows too where it is."""

import numpy as np
import pytest

from heads.geometry import Alignment, Crop, flip_heatmaps
from heads.suppression import box_nms


def test_maps_of_a_mirrored_crop_move_by_a_cell_where_cells_are_strides() -> None:
    maps = np.array([[[1, 2, 3, 4]], [[5, 6, 7, 8]]], np.float32)
    assert flip_heatmaps(maps, (1, 0), "udp").tolist() == [[[8, 7, 6, 5]], [[4, 3, 2, 1]]]
    assert flip_heatmaps(maps, (1, 0), "legacy").tolist() == [[[8, 8, 7, 6]], [[4, 4, 3, 2]]]


@pytest.mark.parametrize(("alignment", "middle"), [("udp", (2.5, 3.5)), ("legacy", (3.0, 4.0))])
def test_the_middle_of_a_box_is_that_of_the_input(
    alignment: Alignment, middle: tuple[float, float]
) -> None:
    crop = Crop.around((10, 20, 30, 40), (8, 6), alignment=alignment)
    np.testing.assert_allclose(crop.to_input(np.array([25.0, 40.0])), middle, atol=1e-12)


def test_boxes_side_by_side_share_the_pixels_of_their_edge() -> None:
    """Of 2 x 2 pixels each they share 1 x 2: 2 of 6."""
    boxes = np.array([[0, 0, 1, 1], [1, 0, 2, 1]], np.float64)
    assert box_nms(boxes, np.array([0.9, 0.8]), 0.30) == [0]
    assert box_nms(boxes, np.array([0.9, 0.8]), 0.34) == [0, 1]
