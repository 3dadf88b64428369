"""Everybody in one pass: targets that decode to what they were made of, and a run that learns."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from heads.center_codec import CenterCodec
from heads.checkpoint import read_spec
from heads.image import encode_image, read_image
from heads.skeleton import COCO_17
from heads.spec import NetworkSpec, View, default_spec
from service.inference.answers import PoseOptions
from service.inference.engine import Engine
from service.inference.job import Job
from training.data import look_through
from training.errors import DataError
from training.loop import train
from training.losses import center_loss, peak_loss
from training.people import NAMES, PeopleDataset, PeopleTask, read_photos
from training.recipe import Views, read_recipe
from training.synthetic import draw_person

SIZE = (96, 128)


def write_pairs(folder: Path, count: int) -> None:
    """Photographs of two drawn people each."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for i in range(1, count + 1):
        image = np.full((*SIZE, 3), 40, np.uint8)
        for side in (0, 1):
            box = (6.0 + 64 * side, 8.0 + 4 * (i % 3), 48.0, 76.0)
            points = draw_person(image, box, seed=2 * i + side)
            keypoints = np.column_stack([points, np.full(17, 2)]).ravel()
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": i, "category_id": 1, "iscrowd": 0,
                    "num_keypoints": 17, "bbox": list(box), "area": 0.5 * box[2] * box[3],
                    "keypoints": [float(v) for v in keypoints],
                }
            )  # fmt: skip
        (folder / f"{i}.png").write_bytes(encode_image(image, "png"))
        images.append({"id": i, "file_name": f"{i}.png", "width": SIZE[1], "height": SIZE[0]})
    category = {"id": 1, "name": "person", "keypoints": list(COCO_17.keypoints)}
    content = {"images": images, "annotations": annotations, "categories": [category]}
    (folder / "pairs.json").write_text(json.dumps(content))


RECIPE = """
name = "pairs"
[network]
backbone = { name = "mobilenet_v2", options = { width_multiplier = 0.25 } }
head = { kind = "center", channels = [16, 16, 16], tower = 32 }
input_size = [96, 128]
threshold = 0.1
[data]
train = "pairs.json"
train_images = "."
val = "pairs.json"
val_images = "."
[views]
scale = 0.0
rotation_deg = 0.0
shift = 0.0
flip = 0.5
colour = 0.0
[optimisation]
epochs = 1
samples_per_epoch = 1000
batch = 8
learning_rate = 5e-3
warmup_steps = 10
ema = 0.9
precision = "fp32"
threads = 1
[watch]
pictures_every = 1
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    write_pairs(folder, 3)
    (folder / "pairs.toml").write_text(RECIPE)
    return folder


def spec_of_size(size: tuple[int, int]) -> NetworkSpec:
    """Of a network that looks at photographs as large as it learns from."""
    spec = default_spec("mobilenet_v2+center", input_size=size)
    return spec.model_copy(update={"view": View(short_side=min(size), max_long=2 * max(size))})


def as_logits(maps: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a network that has learned everything would answer."""
    exact = {k: v[None] for k, v in maps.items() if not k.endswith("weight")}
    for name in ("center", "kpt_heatmap"):
        shares = exact[name].clip(1e-4, 1 - 1e-4)
        exact[name] = np.log(shares / (1 - shares))
    return exact


@pytest.mark.parametrize("shift_px", [0.0, -0.25])
def test_people_decode_to_what_was_encoded(shift_px: float) -> None:
    codec = CenterCodec(shift_px=shift_px)
    rng = np.random.default_rng(0)
    boxes = np.array([[10, 20, 90, 180], [130, 30, 230, 240]], np.float32)
    low, high = boxes[:, None, :2] + 8, boxes[:, None, 2:] - 8
    points = rng.uniform(low, high, (2, 17, 2)).astype(np.float32)
    maps = codec.encode(points, np.ones((2, 17), np.float32), boxes, (64, 64))
    (found,) = codec.decode_people(as_logits(maps))
    order = np.argsort(found.boxes_xyxy[:2, 0])
    np.testing.assert_allclose(found.boxes_xyxy[order], boxes, atol=1e-3)
    np.testing.assert_allclose(found.points[order], points, atol=1e-3)
    assert found.centre_scores[:2].min() > 0.99
    assert (found.centre_scores[2:] < 0.5).all()


def test_what_nobody_labelled_is_not_learned() -> None:
    codec = CenterCodec()
    boxes = np.array([[0, 0, 40, 80], [60, 0, 100, 80]], np.float32)
    points = np.full((2, 17, 2), 20, np.float32)
    weights = np.zeros((2, 17), np.float32)
    weights[0, 3] = 0.5
    maps = codec.encode(points, weights, boxes, (32, 32))
    known = maps["kpt_heatmap_weight"]
    assert known[0, 5, 5] == 0  # in the box of a person whose nose nobody labelled
    assert known[0, 30, 30] == 1  # where nobody is
    assert known[3, 5, 5] == 0.5  # as sure as its label
    weights[1, 3] = 1.0  # another's, as near
    assert codec.encode(points, weights, boxes, (32, 32))["kpt_heatmap_weight"][3, 5, 5] == 1
    assert known[3, 5, 20] == 0  # in the second person's box
    assert maps["kpt_heatmap"][[0, 1, 2]].max() == 0
    assert maps["kpt_offset_weight"].sum() == 2 * 0.5
    assert maps["box_weight"].sum() == 2


def test_a_network_that_knows_everything_has_nothing_to_learn() -> None:
    codec = CenterCodec()
    boxes = np.array([[10, 20, 90, 180]], np.float32)
    points = np.random.default_rng(0).uniform(20, 80, (1, 17, 2)).astype(np.float32)
    maps = codec.encode(points, np.ones((1, 17), np.float32), boxes, (64, 64))
    maps["center_weight"] = np.ones((1, 64, 64), np.float32)
    targets = {name: torch.from_numpy(maps[name])[None] for name in NAMES}
    sure = {k: torch.from_numpy(v) for k, v in as_logits(maps).items()}
    for name in ("center", "kpt_heatmap"):  # sure of peaks, and of nothing elsewhere
        sure[name] = torch.where(targets[name] == 1, 20.0, -20.0)
    assert center_loss(sure, targets).item() < 1e-4
    other = sure | {"box_scale": sure["box_scale"] + 1}
    assert center_loss(other, targets).item() == pytest.approx(0.1, abs=1e-3)
    other = sure | {"kpt_offset": sure["kpt_offset"] + 0.5}
    assert center_loss(other, targets).item() == pytest.approx(0.5, abs=1e-3)


def test_the_loss_of_peaks_by_hand() -> None:
    logits, target = torch.zeros(1, 1, 1, 3), torch.tensor([[[[1.0, 0.5, 0.0]]]])
    half = np.log(2)
    expected = 0.25 * half + 0.5**4 * 0.25 * half + 0.25 * half
    assert peak_loss(logits, target, torch.ones(1, 1, 1, 3)).item() == pytest.approx(expected)
    masked = peak_loss(logits, target, torch.tensor([[[[1.0, 1.0, 0.0]]]]))
    assert masked.item() == pytest.approx(expected - 0.25 * half)


def test_a_mirrored_view_has_mirrored_people(data: Path) -> None:
    photos, _ = read_photos(data / "pairs.json", data)
    spec = spec_of_size(SIZE)
    still = {"scale": 0, "rotation_deg": 0, "shift": 0, "colour": 0}
    plain, mirrored = (
        PeopleDataset(photos, spec, Views.model_validate(still | {"flip": flip}))[0, 1]
        for flip in (0, 1)
    )
    assert torch.equal(plain[0].flip(1), mirrored[0])
    codec = spec.center_codec()
    decoded = []
    for sample in (plain, mirrored):
        maps = {n: t.numpy() for n, t in zip(NAMES, sample[1:], strict=True)}
        decoded.append(codec.decode_people(as_logits(maps))[0])
    left, right = (np.argsort(people.boxes_xyxy[:2, 0]) for people in decoded)
    there = decoded[1].points[right[::-1]][:, list(COCO_17.flip_order)]
    there[..., 0] = SIZE[1] - 1 - there[..., 0]
    np.testing.assert_allclose(decoded[0].points[left], there, atol=1e-3)


@pytest.mark.parametrize("size", [(480, 640), (640, 426), (270, 480), (60, 50)])
def test_people_are_learned_at_the_size_at_which_they_are_looked_for(size: tuple[int, int]) -> None:
    spec = spec_of_size((96, 96))
    still = PeopleDataset([], spec, Views(scale=0, rotation_deg=0, shift=0))
    seen = np.zeros(size, bool)
    rows, columns = np.indices(size)
    everywhere = np.stack([columns, rows], axis=-1).astype(np.float64)
    rng = np.random.default_rng(0)
    for _ in range(60):
        crop = still._view(size, rng)
        assert crop.scale == pytest.approx(spec.whole(size).scale, rel=0.02)
        inside = crop.to_input(everywhere)
        seen |= ((inside > -1) & (inside < 96)).all(axis=-1)
    assert seen.mean() > 0.99


def test_crowds_are_not_learned(data: Path, tmp_path: Path) -> None:
    content = json.loads((data / "pairs.json").read_text())
    content["annotations"][1] |= {"iscrowd": 1}
    (tmp_path / "crowd.json").write_text(json.dumps(content))
    (photo, *_), _ = read_photos(tmp_path / "crowd.json", data)
    assert len(photo.boxes_xyxy) == len(photo.crowds_xyxy) == 1
    spec = spec_of_size(SIZE)
    views = Views(scale=0, rotation_deg=0, shift=0, flip=0)
    sample = dict(zip(NAMES, PeopleDataset([photo], spec, views)[0, 0][1:], strict=True))
    assert sample["center_weight"][0, 10, 24] == 0
    assert sample["center_weight"][0, 10, 8] == 1
    assert sample["kpt_heatmap_weight"][:, 10, 24].max() == 0


def test_a_run_learns_people_and_the_server_finds_them(data: Path, tmp_path: Path) -> None:
    best = train(read_recipe(data / "pairs.toml"), data, tmp_path)
    spec = read_spec(best)
    assert spec.task == "people"
    assert spec.provenance.scores["AP, its own boxes"] > 0.5
    assert read_image(tmp_path / "pairs" / "pictures" / "epoch_001.jpg").std() > 20
    engine = Engine(model=str(best))
    answer = engine.pose((data / "1.png").read_bytes(), "pairs", PoseOptions(), Job())
    engine.close()
    assert len(answer.people) == 2
    lefts = sorted(person.box_xywh[0] for person in answer.people)
    assert lefts == pytest.approx([6, 70], abs=4)


def test_bad_entries_are_left_out_where_the_recipe_says_so(data: Path, tmp_path: Path) -> None:
    content = json.loads((data / "pairs.json").read_text())
    content["annotations"][1]["bbox"] = [0, 0, 0, 0]
    content["images"][2]["file_name"] = "lost.png"
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps(content))
    changes = [f"data.train={bad}", f"data.val={bad}"]
    with pytest.raises(DataError, match=r"bad\.json has 2 errors: .*data\.skip_bad = true"):
        PeopleTask(read_recipe(data / "pairs.toml", changes), data)
    task = PeopleTask(read_recipe(data / "pairs.toml", [*changes, "data.skip_bad=true"]), data)
    assert len(task.samples) == 2
    boxes = [
        len(photo.boxes_xyxy) for photo in read_photos(bad, data, look_through(bad, data, True))[0]
    ]
    assert boxes == [1, 2]


def test_a_recipe_may_name_more_files_than_one(data: Path, tmp_path: Path) -> None:
    write_pairs(tmp_path, 2)
    more = f"{{ train = '{tmp_path / 'pairs.json'}', train_images = '{tmp_path}' }}"
    task = PeopleTask(read_recipe(data / "pairs.toml", [f"data.more=[{more}]"]), data)
    assert len(task.samples) == 5


def test_what_is_no_data_set_is_refused(data: Path, tmp_path: Path) -> None:
    content = json.loads((data / "pairs.json").read_text())
    content["annotations"][0]["keypoints"] = [1, 2]
    (tmp_path / "bad.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"bad\.json, annotation 1 cannot be read"):
        read_photos(tmp_path / "bad.json", data)
    with pytest.raises(DataError, match="3 photographs are missing"):
        read_photos(data / "pairs.json", tmp_path)
    (tmp_path / "none.json").write_text("{}")
    with pytest.raises(DataError, match="is no COCO keypoint file"):
        read_photos(tmp_path / "none.json", data)


def test_who_is_half_in_view_has_keypoints_without_a_centre() -> None:
    points = np.full((1, 17, 2), 50, np.float32)
    box = np.array([[-140, 10, 70, 200]], np.float32)  # its middle lies outside
    maps = CenterCodec().encode(points, np.ones((1, 17), np.float32), box, (64, 64))
    assert (maps["kpt_heatmap"].max(axis=(1, 2)) == 1).all()
    assert maps["kpt_offset_weight"].sum() == 2 * 17
    for name in ("center", "kpt_regress_weight", "box_weight"):
        assert maps[name].max() == 0, name


@pytest.mark.parametrize("box", [(-140, 10, -100, 200), (10, -90, 70, -20), (300, 10, 340, 90)])
def test_who_is_out_of_view_leaves_nothing_unknown(data: Path, box: Any) -> None:
    boxes, points = np.array([box], np.float32), np.zeros((1, 17, 2), np.float32)
    maps = CenterCodec().encode(points, np.zeros((1, 17), np.float32), boxes, (64, 64))
    assert maps["kpt_heatmap_weight"].min() == 1
    photo = read_photos(data / "pairs.json", data)[0][0]
    spec = spec_of_size(SIZE)
    still = Views(scale=0, rotation_deg=0, shift=0, flip=0)
    samples = PeopleDataset([replace(photo, crowds_xyxy=boxes)], spec, still)
    assert dict(zip(NAMES, samples[0, 0][1:], strict=True))["center_weight"].min() == 1
