"""Learning classes of photographs: two kinds of drawings, told apart after a few steps."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from commands.evaluate_whole import classes_measured
from heads.checkpoint import read_spec
from heads.errors import ImageError
from heads.image import encode_image
from heads.load import load
from heads.network import Network, build
from heads.spec import default_spec
from hrpose import app
from service.inference import estimator
from service.inference.engine import Engine
from service.inference.job import Job
from training.classify import ClassifyTask, PhotoDataset, read_folders
from training.errors import DataError, TrainingDiverged
from training.loop import train
from training.recipe import ImageViews, Recipe, read_recipe

RECIPE = """
name = "shapes"
[network]
backbone = { name = "mobilenet_v2", options = { width_multiplier = 0.25 } }
head = { kind = "classify" }
input_size = [32, 32]
[data]
train = "train"
val = "val"
[image_views]
smallest = 0.5
[optimisation]
epochs = 2
samples_per_epoch = 1200
batch = 16
learning_rate = 5e-3
warmup_steps = 2
ema = 0.8
precision = "fp32"
threads = 1
[watch]
pictures_every = 2
"""


def write_shapes(folder: Path, count: int, seed: int) -> None:
    """Horizontal and vertical stripes in random colours."""
    rng = np.random.default_rng(seed)
    for name in ("across", "upright"):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            stripes = rng.integers(0, 256, (6, 1, 3), np.uint8).repeat(8, axis=0).repeat(48, axis=1)
            image = stripes if name == "across" else stripes.transpose(1, 0, 2)
            data = encode_image(np.ascontiguousarray(image), "png")
            (folder / name / f"{i}.png").write_bytes(data)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    write_shapes(folder / "train", 20, 0)
    write_shapes(folder / "val", 10, 1)
    (folder / "shapes.toml").write_text(RECIPE)
    return folder


def recipe_of(data: Path, *changes: str) -> Recipe:
    return read_recipe(data / "shapes.toml", changes)


def test_a_run_learns_classes_and_the_server_answers_with_them(data: Path, tmp_path: Path) -> None:
    best = train(recipe_of(data), data, tmp_path)
    spec = read_spec(best)
    assert spec.classes == ("across", "upright")
    assert spec.provenance.scores["top1, one crop"] >= 0.9
    assert (tmp_path / "shapes" / "pictures" / "epoch_002.jpg").is_file()
    engine = Engine(model=str(best))
    right = []
    for name in spec.classes:
        for path in sorted((data / "val" / name).iterdir()):
            found = engine.classify(path.read_bytes(), "shapes", 1, Job()).classes[0].name
            right.append(found == name)
    engine.close()
    assert np.mean(right) == spec.provenance.scores["top1, one crop"]

    def evaluated(folder: Path) -> dict[str, Any]:
        file = tmp_path / "scores.json"
        options = ["--model", str(best), "--runtime", "openvino", "--json", str(file)]
        done = CliRunner().invoke(app, ["evaluate", "--annotations", str(folder), *options])
        assert done.exit_code == 0, done.output
        (scores,) = json.loads(file.read_text())["scores"]
        return dict(scores)

    scores = evaluated(data / "val")
    assert (scores["top1"], scores["top5"]) == (spec.provenance.scores["top1, one crop"], 1.0)
    # As many folders of other names are the classes in order: here the wrong way round.
    (tmp_path / "turned").mkdir()
    for new, name in (("n01", "upright"), ("n02", "across")):
        (tmp_path / "turned" / new).symlink_to(data / "val" / name)
    assert evaluated(tmp_path / "turned")["top1"] == pytest.approx(1 - scores["top1"])
    (tmp_path / "turned" / "n03").symlink_to(data / "val" / "across")
    with pytest.raises(DataError, match="turned/n01 is no class of shapes"):
        classes_measured(estimator.load(best), tmp_path / "turned")


def test_mixing_smoothing_and_policies_train_too(data: Path, tmp_path: Path) -> None:
    changes = [
        "image_views.mixup=0.2",
        "image_views.cutmix=1.0",
        "image_views.policy=trivial",
        "image_views.erasing=0.2",
        "optimisation.label_smoothing=0.1",
        "optimisation.optimizer=sgd",
        "optimisation.epochs=1",
        "optimisation.samples_per_epoch=320",
        "watch.log_every=1",
    ]
    train(recipe_of(data, *changes), data, tmp_path)
    lines = [
        json.loads(line) for line in (tmp_path / "shapes" / "log.jsonl").read_text().splitlines()
    ]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 20
    assert all(np.isfinite(losses))
    assert load(tmp_path / "shapes" / "best.safetensors").spec.task == "classify"


def test_a_view_is_the_same_for_the_same_seed(data: Path) -> None:
    photos, _ = read_folders(data / "train")
    samples = PhotoDataset(photos, (32, 32), ImageViews(policy="auto"))
    before = torch.get_rng_state()
    first, again, other = samples[3, 7], samples[3, 7], samples[3, 8]
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])
    assert torch.equal(torch.get_rng_state(), before)  # the run's own numbers are left alone
    assert first[0].shape == (32, 32, 3)
    assert first[0].dtype == torch.uint8


def test_folders_that_cannot_be_learned_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no folder nowhere"):
        read_folders(tmp_path / "nowhere")
    (tmp_path / "one" / "only").mkdir(parents=True)
    with pytest.raises(DataError, match=r"one/only has no photographs"):
        read_folders(tmp_path / "one")
    write_shapes(tmp_path / "val", 1, 0)
    (tmp_path / "val" / "across").rename(tmp_path / "val" / "along")
    (tmp_path / "train").symlink_to(data / "train")
    with pytest.raises(DataError, match=r"train and val differ in \['across', 'along'\]"):
        train(recipe_of(data), tmp_path, tmp_path / "runs")


class Blank(ClassifyTask):
    """A task whose network answers what the test says."""

    def __init__(self, answer: Tensor) -> None:
        self.spec = default_spec("mobilenet_v2+classify", input_size=(32, 32))
        self._validation = [(Path("x"), i % 10) for i in range(20)]
        self._answer = answer

    def _logits(self, network: Network, paths: Sequence[Path]) -> Tensor:
        del network
        return self._answer.expand(len(paths), 10)


def test_a_network_that_says_the_same_of_all_classes_knows_none() -> None:
    network = build(default_spec("mobilenet_v2+classify", input_size=(32, 32)))
    assert Blank(torch.zeros(1, 10)).validate(network) == {"top1": 0.0, "top5": 0.0}
    one = Blank(torch.eye(10)[:1]).validate(network)  # sure of the first class
    assert one == {"top1": pytest.approx(0.1), "top5": pytest.approx(0.1)}


def test_an_answer_that_is_not_finite_is_no_measure(data: Path) -> None:
    task = ClassifyTask(recipe_of(data), data)
    network = build(task.spec)
    with torch.no_grad():
        next(iter(network.head.parameters())).fill_(np.nan)
    with pytest.raises(TrainingDiverged, match="shapes answers what is not finite"):
        task.validate(network)


def test_folders_of_systems_and_notebooks_are_no_classes(tmp_path: Path) -> None:
    write_shapes(tmp_path, 1, 0)
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / ".ipynb_checkpoints").mkdir()
    assert read_folders(tmp_path)[1] == ("across", "upright")


def test_a_photograph_that_cannot_be_read_is_named_with_its_class(tmp_path: Path) -> None:
    write_shapes(tmp_path, 1, 0)
    (tmp_path / "upright" / "0.png").write_bytes(b"what")
    samples = PhotoDataset(read_folders(tmp_path)[0], (32, 32), ImageViews())
    with pytest.raises(ImageError, match=r"^upright/0\.png: not an image"):
        samples[1, 0]
