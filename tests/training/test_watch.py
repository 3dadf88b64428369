"""What a run leaves behind: its last states, pictures, events; and the ways it can compute."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from heads.image import read_image
from training.errors import RecipeError, StateError
from training.loop import train
from training.precision import arithmetic
from training.recipe import Recipe, read_recipe
from training.synthetic import write_dataset

RECIPE = """
name = "tiny"
[network]
backbone = { name = "mobilenet_v2", options = { width_multiplier = 0.1 } }
head = { kind = "fuse", channels = 8 }
input_size = [64, 64]
[data]
train = "people.json"
train_images = "."
val = "people.json"
val_images = "."
[optimisation]
epochs = 1
samples_per_epoch = 8
batch = 4
warmup_steps = 2
threads = 1
[watch]
log_every = 1
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_dataset(folder, 3)
    (folder / "tiny.toml").write_text(RECIPE)
    return folder


def recipe_of(data: Path, *changes: str) -> Recipe:
    return read_recipe(data / "tiny.toml", changes)


def progress_of(state: Path) -> dict[str, Any]:
    progress: dict[str, Any] = torch.load(state, weights_only=True)["progress"]
    return progress


def test_the_last_states_are_kept(data: Path, tmp_path: Path) -> None:
    train(recipe_of(data, "optimisation.epochs=5", "watch.keep=3"), data, tmp_path)
    states = sorted((tmp_path / "tiny").glob("state*"))
    assert [path.name for path in states] == ["state.1.pt", "state.2.pt", "state.pt"]
    assert [progress_of(path)["epoch"] for path in states] == [4, 3, 5]


def test_a_run_goes_on_from_the_state_before_a_damaged_one(data: Path, tmp_path: Path) -> None:
    train(recipe_of(data, "optimisation.epochs=3"), data, tmp_path / "whole")
    train(recipe_of(data, "optimisation.epochs=2"), data, tmp_path / "damaged")
    state = tmp_path / "damaged" / "tiny" / "state.pt"
    state.write_bytes(state.read_bytes()[:-100])
    with pytest.raises(StateError, match="delete it to go on from the state before"):
        train(recipe_of(data, "optimisation.epochs=3"), data, tmp_path / "damaged")
    state.unlink()
    train(recipe_of(data, "optimisation.epochs=3"), data, tmp_path / "damaged")
    whole, again = (
        torch.load(tmp_path / run / "tiny" / "state.pt", weights_only=True)["network"]
        for run in ("whole", "damaged")
    )
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_pictures_show_people_with_what_was_found(data: Path, tmp_path: Path) -> None:
    changes = ("optimisation.epochs=2", "watch.pictures_every=2")
    train(recipe_of(data, *changes), data, tmp_path)
    (path,) = (tmp_path / "tiny" / "pictures").iterdir()
    assert path.name == "epoch_002.jpg"
    picture = read_image(path)
    assert picture.shape == (64, 3 * 64, 3)  # three people, on crops of 64 x 64
    assert picture.std() > 20


def test_tensorboard_gets_every_figure(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra `train` is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(recipe_of(data, "watch.tensorboard=true", "watch.pictures_every=1"), data, tmp_path)
    events = EventAccumulator(str(tmp_path / "tiny" / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert {"loss", "lr", "crops_per_s", "ap", "pck"} <= set(tags["scalars"])
    assert tags["images"] == ["validation"]
    lines = (tmp_path / "tiny" / "log.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines if '"loss"' in line]
    assert [event.value for event in events.Scalars("loss")] == pytest.approx(losses)


def test_without_tensorboard_a_run_says_what_to_install(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(RecipeError, match=r"pip install '\.\[train\]'"):
        train(recipe_of(data, "watch.tensorboard=true"), data, tmp_path)


def first_loss(runs: Path) -> float:
    lines = (runs / "tiny" / "log.jsonl").read_text().splitlines()
    return float(json.loads(lines[0])["loss"])


@pytest.mark.parametrize(
    ("changes", "tolerance"),
    [
        (["optimisation.precision=bf16"], 1e-2),
        (["optimisation.precision=fp16"], 1e-2),
        pytest.param(
            ["optimisation.precision=fp32", "optimisation.compile=true"],
            1e-4,
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda value: value[-1].split(".")[-1] if isinstance(value, list) else "",
)
def test_every_way_to_compute_makes_the_same_first_step(
    data: Path, tmp_path: Path, changes: list[str], tolerance: float
) -> None:
    train(recipe_of(data, "optimisation.precision=fp32"), data, tmp_path / "plain")
    train(recipe_of(data, *changes), data, tmp_path / "other")
    plain, other = first_loss(tmp_path / "plain"), first_loss(tmp_path / "other")
    assert other == pytest.approx(plain, rel=tolerance)
    state = torch.load(tmp_path / "other" / "tiny" / "state.pt", weights_only=True)
    assert all(t.isfinite().all() for t in state["network"].values() if t.is_floating_point())
    assert bool(state["scaler"]) == ("fp16" in changes[0])


@pytest.mark.parametrize("real", [True, False])
def test_bfloat16_is_taken_only_where_it_is_not_imitated(
    monkeypatch: pytest.MonkeyPatch, real: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": real})
    taken = torch.bfloat16 if real else torch.float32
    assert arithmetic("auto", torch.device("cpu")) == taken
    assert arithmetic("bf16", torch.device("cpu")) == torch.bfloat16  # as it is told
