"""MoveNet from our own parts: the published graphs' answers, number for number."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from heads.center_codec import CenterCodec
from heads.checkpoint import load_network
from heads.geometry import Crop
from heads.network import Network, build, input_tensor
from heads.spec import BackboneSpec, CenterHead, NetworkSpec
from models.errors import ShapeError, SpecError

PRETRAINED = Path(__file__).parents[2] / "heads" / "pretrained"


@pytest.fixture(scope="module")
def golden(shared: Path) -> Any:
    return np.load(shared / "weights" / "golden.npz")


def maps_of(network: Network, image: Any) -> dict[str, Any]:
    with torch.inference_mode():
        answer = network(input_tensor(network.spec, torch.from_numpy(image[None])))
    assert isinstance(answer, dict)
    return {name: tensor.numpy() for name, tensor in answer.items()}


def test_thunder_answers_as_the_published_graph(golden: Any) -> None:
    network = load_network(PRETRAINED / "movenet_thunder.safetensors")
    maps = maps_of(network, golden["thunder_input"])
    for name, values in maps.items():
        np.testing.assert_allclose(
            values[0][:, ::4, ::4], golden[f"thunder_raw_{name}"], atol=5e-4, err_msg=name
        )
    codec = network.spec.center_codec()
    points, scores = codec.decode_single(maps)
    y_x = (points[0, :, ::-1] - codec.shift_px) / codec.stride / 64
    np.testing.assert_allclose(y_x, golden["thunder_keypoints"][:, :2], atol=1e-5)
    np.testing.assert_allclose(scores[0], golden["thunder_keypoints"][:, 2], atol=1e-5)


def test_multipose_answers_as_the_published_graph(golden: Any) -> None:
    network = load_network(PRETRAINED / "movenet_multipose.safetensors")
    maps = maps_of(network, golden["multipose_input"])
    for name, values in maps.items():
        np.testing.assert_allclose(
            values[0][:, ::4, ::4], golden[f"multipose_raw_{name}"], atol=5e-4, err_msg=name
        )
    # The published graph answers six; the file that ships asks its maps for more.
    codec = replace(network.spec.center_codec(), max_people=6)
    (found,) = codec.decode_people(maps)
    expected = golden["multipose_people"]
    grid = np.array([64, 96])
    keypoints = expected[:, :51].reshape(6, 17, 3)
    y_x = (found.points[..., ::-1] - codec.shift_px) / codec.stride / grid
    np.testing.assert_allclose(y_x, keypoints[..., :2], atol=1e-5)
    np.testing.assert_allclose(found.point_scores, keypoints[..., 2], atol=1e-5)
    np.testing.assert_allclose(found.scores, expected[:, 55], atol=1e-5)
    cells = (found.boxes_xyxy - codec.shift_px) / codec.stride
    boxes = cells[:, [1, 0, 3, 2]] / np.tile(grid, 2)
    np.testing.assert_allclose(boxes, expected[:, 51:55], atol=1e-5)


def test_swapped_colours_change_the_answer(golden: Any) -> None:
    network = load_network(PRETRAINED / "movenet_thunder.safetensors")
    image = golden["thunder_input"]
    codec = network.spec.center_codec()
    _, scores = codec.decode_single(maps_of(network, image))
    _, swapped = codec.decode_single(maps_of(network, np.ascontiguousarray(image[..., ::-1])))
    assert np.abs(scores - swapped).max() > 0.02


def peaks(*cells: tuple[int, int], k: int = 2, grid: tuple[int, int] = (16, 24)) -> dict[str, Any]:
    """Maps with a person at each cell (y, x): keypoint 0 on it, keypoint 1 two cells right."""
    h, w = grid
    maps = {
        "center": np.full((1, 1, h, w), -9.0, np.float32),
        "kpt_heatmap": np.full((1, k, h, w), -9.0, np.float32),
        "kpt_regress": np.zeros((1, 2 * k, h, w), np.float32),
        "kpt_offset": np.full((1, 2 * k, h, w), 0.25, np.float32),
        "box_scale": np.full((1, 2, h, w), 6.0, np.float32),
        "box_offset": np.zeros((1, 2, h, w), np.float32),
    }
    maps["kpt_regress"][:, 3] = 2.0  # dx of keypoint 1
    for strength, (y, x) in enumerate(cells):
        maps["center"][0, 0, y, x] = 3.0 - strength
        maps["kpt_heatmap"][0, 0, y, x] = 2.0
        maps["kpt_heatmap"][0, 1, y, x + 2] = 2.0
    return maps


def test_each_person_gets_its_own_keypoints() -> None:
    (found,) = CenterCodec(stride=4).decode_people(peaks((4, 5), (10, 15)))
    assert len(found.scores) >= 2
    np.testing.assert_allclose(found.points[0], [[21, 17], [29, 17]])
    np.testing.assert_allclose(found.points[1], [[61, 41], [69, 41]])
    np.testing.assert_allclose(found.boxes_xyxy[0], [8, 4, 32, 28])
    assert found.scores[0] > found.scores[1] > 0.3


def test_boxes_are_those_of_the_people() -> None:
    maps = peaks((4, 5), (10, 15))
    view = Crop(np.array([[0.5, 0, 0], [0, 0.5, 0]]), (64, 96))
    codec = CenterCodec(stride=4)
    people = codec.decode_people(maps)[0].people(view, (128, 192))
    boxes = codec.decode_boxes(maps, view, (128, 192))
    assert [tuple(box) for box in boxes] == [(p.box_xywh, p.box_score) for p in people]
    assert boxes[0].xywh == (16, 8, 48, 48)


def test_more_people_are_found_when_asked_for() -> None:
    maps = peaks(*[(8, 3 * i + 1) for i in range(7)])
    (few,) = CenterCodec(max_people=6).decode_people(maps)
    (more,) = CenterCodec(max_people=20).decode_people(maps)
    assert len(few.scores) == 6
    assert (more.centre_scores > 0.01).sum() == 7


def test_nobody_is_no_error() -> None:
    maps = {name: np.zeros_like(values) for name, values in peaks().items()}
    maps["center"] -= 200  # sigmoid is exactly 0
    (found,) = CenterCodec().decode_people(maps)
    assert found.points.shape == (0, 2, 2)
    assert found.scores.shape == (0,)


def test_no_crops_are_no_error() -> None:
    none = {name: values[:0] for name, values in peaks().items()}
    points, scores = CenterCodec().decode_single(none)
    assert (points.shape, scores.shape) == ((0, 2, 2), (0, 2))


def test_maps_without_boxes_are_refused() -> None:
    maps = peaks((4, 5))
    del maps["box_scale"]
    with pytest.raises(ShapeError, match="no boxes"):
        CenterCodec().decode_people(maps)
    with pytest.raises(ShapeError, match="no boxes"):
        CenterCodec().decode_boxes(maps, Crop(np.eye(3)[:2], (64, 96)), (64, 96))


@pytest.mark.parametrize("backbone", ["hrnet_w18_small", "resnet18", "mobilenet_v2"])
def test_any_backbone_carries_a_center_head(backbone: str) -> None:
    spec = NetworkSpec(
        name="x",
        task="people",
        backbone=BackboneSpec(name=backbone),
        head=CenterHead(),
        input_size=(64, 96),
    )
    maps = build(spec).eval()(torch.zeros(1, 3, 64, 96))
    assert isinstance(maps, dict)
    assert maps["kpt_regress"].shape == (1, 34, 16, 24)
    assert maps["box_scale"].shape == (1, 2, 16, 24)


def test_a_people_network_needs_boxes() -> None:
    with pytest.raises(ValueError, match="center head with boxes"):
        NetworkSpec(
            name="x",
            task="people",
            backbone=BackboneSpec(name="resnet18"),
            head=CenterHead(boxes=False),
            input_size=(64, 96),
        )
    with pytest.raises(SpecError, match="there is no backbone"):
        build(
            NetworkSpec(
                name="x",
                task="people",
                backbone=BackboneSpec(name="resnet19"),
                head=CenterHead(),
                input_size=(64, 96),
            )
        )


def test_of_two_people_with_one_middle_the_later_is_learned_alone() -> None:
    """Their boxes differ, their middles fall into one cell."""
    points = np.array([[[20, 20], [70, 70]], [[30, 30], [60, 60]]], np.float32)
    weights = np.array([[1, 1], [1, 0]], np.float32)
    boxes = np.array([[16, 16, 80, 80], [24, 24, 72, 72]], np.float32)
    maps = CenterCodec().encode(points, weights, boxes, (24, 24))
    np.testing.assert_array_equal(maps["kpt_regress_weight"][:, 12, 12], [1, 1, 0, 0])
    np.testing.assert_allclose(maps["kpt_regress"][:2, 12, 12], 30 / 4 - 12)
