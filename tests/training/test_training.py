"""The training run: it learns, resumes bit for bit, and refuses what it cannot use."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hrpose
from heads.checkpoint import load_checkpoint
from heads.image import read_image
from heads.skeleton import COCO_17
from training.augment import Augmentation
from training.data import EpochSampler, look_through, read_samples
from training.errors import DataError, RecipeError, TrainingDiverged
from training.loop import train
from training.losses import heatmap_mae, heatmap_mse
from training.pose import PoseTask
from training.recipe import Recipe, read_recipe
from training.synthetic import write_dataset

RECIPE = """
name = "tiny"
[network]
backbone = { name = "mobilenet_v2", options = { width_multiplier = 0.25 } }
head = { kind = "fuse", channels = 32 }
input_size = [96, 64]
[data]
train = "people.json"
train_images = "."
val = "people.json"
val_images = "."
[views]
scale = 0.0
rotation_deg = 0.0
shift = 0.0
flip = 0.0
half_body = 0.0
colour = 0.0
[optimisation]
epochs = 4
samples_per_epoch = 16
batch = 4
learning_rate = 2e-3
warmup_steps = 5
ema = 0.9
precision = "fp32"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "data", 5)
    (tmp_path / "tiny.toml").write_text(RECIPE)
    return tmp_path


def recipe_of(folder: Path, *changes: str) -> Recipe:
    return read_recipe(folder / "tiny.toml", changes)


def log_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "tiny" / "log.jsonl").read_text().splitlines()]


def test_a_small_network_learns_five_people_by_heart(folder: Path) -> None:
    changes = (
        "views.flip=0.5",
        "optimisation.epochs=10",
        "optimisation.samples_per_epoch=400",
        "optimisation.ema=0.98",
    )
    best = train(recipe_of(folder, *changes), folder / "data", folder / "runs")
    scores = [line["ap"] for line in log_of(folder / "runs") if "ap" in line]
    assert max(scores) > 0.9
    estimator = hrpose.load(best)
    sample = read_samples(folder / "data" / "people.json", folder / "data")[0][0]
    (person,) = estimator.predict(read_image(sample.path), [sample.box_xywh])
    assert np.linalg.norm(person.keypoints[:, :2] - sample.keypoints, axis=1).mean() < 3


def test_a_recipe_may_name_more_files_than_one_and_weigh_their_source(folder: Path) -> None:
    more = write_dataset(folder / "more", 2)
    content = json.loads(more.read_text())
    for annotation in content["annotations"]:
        annotation["source"] = "network"
    more.write_text(json.dumps(content))
    recipe = recipe_of(
        folder,
        "data.more=[{ train = '../more/people.json', train_images = '../more' }]",
        "data.weights={ network = 0.5 }",
        "optimisation.samples_per_epoch=7",
    )
    task = PoseTask(recipe, folder / "data")
    assert len(task.samples) == 7
    assert task.chances.tolist() == [1.0] * 5 + [0.5] * 2


@pytest.mark.parametrize("interruption", ["between epochs", "within an epoch"])
def test_a_resumed_run_ends_with_the_same_bits(
    folder: Path, interruption: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(recipe_of(folder), folder / "data", folder / "whole")
    if interruption == "between epochs":
        # The schedule must be that of the whole run, so it is stopped by its clock, not by epochs.
        stops = iter([False] * 7 + [True])
    else:
        stops = iter([False] * 5 + [True])

    class Clock:
        """A time that is over when the test says so."""

        def __le__(self, _: float) -> bool:
            return next(stops)

    train(recipe_of(folder), folder / "data", folder / "parts", stop_at=Clock())  # type: ignore[arg-type]
    assert (folder / "parts" / "tiny" / "state.pt").is_file()
    torch.manual_seed(99)  # whatever happened in between
    resumed = train(recipe_of(folder), folder / "data", folder / "parts")
    monkeypatch.undo()
    first, second = load_checkpoint(whole)[1], load_checkpoint(resumed)[1]
    assert all(torch.equal(first[name], second[name]) for name in first)
    aps = [
        [line["ap"] for line in log_of(folder / run) if "ap" in line] for run in ("whole", "parts")
    ]
    assert aps[0] == aps[1]


def test_an_unlabelled_keypoint_gives_no_gradient() -> None:
    predicted = torch.rand(2, 3, 4, 4, requires_grad=True)
    weights = torch.tensor([[1.0, 0.0, 0.5], [0.0, 1.0, 1.0]])
    for loss in (heatmap_mse, heatmap_mae):
        (slope,) = torch.autograd.grad(loss(predicted, torch.rand(2, 3, 4, 4), weights), predicted)
        assert ((slope.abs().sum(dim=(2, 3)) > 0) == (weights > 0)).all()


def test_mse_is_the_official_loss(legacy: Any, fill: Any) -> None:
    """With the official factor of a half, which scales every gradient alike."""
    from heads.codec import HeatmapCodec

    for case in legacy["legacy"]["loss_and_pck"]:
        output = fill.make_heatmaps(case["output"]["shape"], case["output"]["key"])
        codec = HeatmapCodec((256, 192), (64, 48), "legacy", sigma=case["sigma"])
        targets, weights = codec.encode(np.array(case["joints"]), np.array(case["visible"]))
        loss = 0.5 * heatmap_mse(output, torch.from_numpy(targets), torch.from_numpy(weights))
        assert float(loss) == pytest.approx(case["joints_mse"], rel=1e-5)


def test_plain_mae_is_content_with_nothing_and_weighted_mae_is_not() -> None:
    """An all-zero answer against one with half of the peak found, plus a little noise elsewhere."""
    target = torch.zeros(1, 1, 64, 48)
    target[..., 30:35, 20:25] = 0.8
    nothing = torch.zeros_like(target)
    attempt = target / 2 + 0.01
    ones = torch.ones(1, 1)
    assert heatmap_mae(nothing, target, ones) < heatmap_mae(attempt, target, ones)
    weighted = [float(heatmap_mae(m, target, ones, foreground=10.0)) for m in (nothing, attempt)]
    assert weighted[1] < weighted[0]


@pytest.mark.parametrize("seed", range(8))
def test_labels_move_with_the_pixels(seed: int) -> None:
    """A dot at each of two keypoints is found where augmentation says it is."""
    image = np.zeros((200, 150, 3), np.uint8)
    points = np.zeros((17, 2), np.float32)
    points[5], points[6] = (60, 80), (100, 90)  # left and right shoulder
    image[76:85, 56:65] = (255, 0, 0)
    image[86:95, 96:105] = (0, 255, 0)
    weights = np.zeros(17, np.float32)
    weights[[5, 6]] = 1
    views = Augmentation(COCO_17, (128, 96), scale=0.1, half_body=0.0, colour=0.0)
    rng = np.random.default_rng(seed)
    view, moved, kept = views.apply(image, (10.0, 20.0, 140.0, 150.0), points, weights, rng)
    dots = [np.argwhere(view[..., channel] > 100)[:, ::-1] for channel in (0, 1)]
    assert kept[[5, 6]].tolist() == [1, 1]
    red, green = (dot.mean(axis=0) for dot in dots)
    as_it_was = max(abs(red - moved[5]).max(), abs(green - moved[6]).max())
    # In a mirrored view the red dot, the left shoulder, is labelled as the right one.
    mirrored = max(abs(green - moved[5]).max(), abs(red - moved[6]).max())
    assert min(as_it_was, mirrored) < 1.0
    assert max(as_it_was, mirrored) > 10


def test_an_epoch_is_drawn_by_weight_and_repeats() -> None:
    chances = np.array([1, 0, 9], np.float32)
    sampler = EpochSampler(chances, 2000, seed=1)
    first = list(sampler)
    indices = [index for index, _ in first]
    assert indices.count(1) == 0
    assert 0.85 < indices.count(2) / 2000 < 0.95
    assert list(sampler) == first
    sampler.skip = 1500
    assert list(sampler) == first[1500:]
    sampler.epoch, sampler.skip = 1, 0
    assert list(sampler) != first


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ("optimisation.epochs=0", "optimisation.epochs"),
        ("optimisation.epoch=3", "optimisation.epoch"),
        ("network.head.kind=u-net", "network.head"),
        ("views.flip=2", "views.flip"),
        ("name=a/b", "name"),
    ],
)
def test_a_bad_recipe_is_refused_by_its_key(folder: Path, change: str, key: str) -> None:
    with pytest.raises(RecipeError, match=rf"tiny\.toml, {key}"):
        recipe_of(folder, change)


def test_data_that_cannot_be_used_is_refused_by_name(folder: Path) -> None:
    path = folder / "data" / "people.json"
    content = json.loads(path.read_text())
    content["annotations"][2]["keypoints"] = [1, 2, 3]
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"people\.json, annotation 3"):
        read_samples(path, folder)
    path.write_text("{}")
    with pytest.raises(DataError, match=r"people\.json is no COCO keypoint file"):
        read_samples(path, folder)


def test_labels_are_counted_where_num_keypoints_is_missing(folder: Path) -> None:
    path = folder / "data" / "people.json"
    content = json.loads(path.read_text())
    for a in content["annotations"]:
        del a["num_keypoints"]
    content["annotations"][0]["keypoints"] = [0] * 51
    del content["annotations"][1]["keypoints"]
    path.write_text(json.dumps(content))
    samples, _ = read_samples(path, folder)
    assert len(samples) == len(content["annotations"]) - 2


def test_pairs_that_are_not_swapped_are_told(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = folder / "data" / "people.json"
    content = json.loads(path.read_text())
    names = content["categories"][0]["keypoints"]
    content["categories"][0]["keypoints"] = [
        n.replace("left_", "L_").replace("right_", "R_") for n in names
    ]
    path.write_text(json.dumps(content))
    look_through(path, path.parent, skip_bad=False)
    assert "L_eye and R_eye" in caplog.text
    content["categories"][0]["flip_pairs"] = []
    path.write_text(json.dumps(content))
    caplog.clear()
    look_through(path, path.parent, skip_bad=False)
    assert not caplog.text


def test_crowds_and_people_without_keypoints_are_left_out(folder: Path) -> None:
    path = folder / "data" / "people.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["iscrowd"] = 1
    content["annotations"][1]["num_keypoints"] = 0
    content["annotations"][2]["bbox"] = [5, 5, 0, 10]
    content["annotations"][3]["scores"] = [0.5] * 17
    path.write_text(json.dumps(content))
    samples, _ = read_samples(path, folder)
    assert len(samples) == 2
    np.testing.assert_allclose(samples[0].weights, 0.5)
    np.testing.assert_allclose(samples[1].weights, 1.0)


def test_a_loss_that_is_no_number_stops_the_run(folder: Path) -> None:
    recipe = recipe_of(folder, "optimisation.learning_rate=1e30", "optimisation.clip_norm=1e30")
    with pytest.raises(TrainingDiverged, match="lower learning_rate"):
        train(recipe, folder / "data", folder / "runs")
