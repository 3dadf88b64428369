"""Two processes do what one does with twice the batch; and several batches make one step."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import ROOT
from training.data import EpochSampler
from training.errors import WorkersError
from training.loop import train
from training.recipe import Optimisation, read_recipe
from training.schedule import base_rate
from training.synthetic import write_dataset
from training.workers import Workers

# No batch norm: its means are of one process's samples, so that with it the two ways differ.
RECIPE = """
name = "tiny"
[network]
backbone = { name = "mobilenet_v2", options = { width_multiplier = 0.25, norm = false } }
head = { kind = "simple" }
input_size = [64, 64]
[data]
train = "people.json"
train_images = "."
val = "people.json"
val_images = "."
[optimisation]
epochs = 2
samples_per_epoch = 40
batch = 8
warmup_steps = 2
threads = 1
precision = "fp32"
ema = 0
[watch]
log_every = 1
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_dataset(folder, 3)
    (folder / "tiny.toml").write_text(RECIPE)
    return folder


def log_of(runs: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (runs / "tiny" / "log.jsonl").read_text().splitlines()]


def weights_of(runs: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(runs / "tiny" / "state.pt", weights_only=True)[
        "network"
    ]
    return state


def assert_same_run(first: Path, second: Path) -> None:
    """Losses and weights agree to what the order of additions changes in 32 bits."""
    a, b = ([x["loss"] for x in log_of(runs) if "loss" in x] for runs in (first, second))
    assert len(a) == 10
    np.testing.assert_allclose(a, b, rtol=1e-3)
    before, after = weights_of(first), weights_of(second)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, rtol=1e-3, atol=1e-4)


def test_two_processes_do_what_one_does_with_twice_the_batch(data: Path, tmp_path: Path) -> None:
    train(read_recipe(data / "tiny.toml"), data, tmp_path / "one")
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone",
        "-m", "training", str(data / "tiny.toml"), "--data", str(data),
        "--runs", str(tmp_path / "two"), "--set", "optimisation.batch=4",
    ]  # fmt: skip
    quiet = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=quiet, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert_same_run(tmp_path / "one", tmp_path / "two")
    assert log_of(tmp_path / "two")[-1]["crops"] == 80
    assert (tmp_path / "two" / "tiny" / "best.safetensors").is_file()


def test_batches_that_make_one_step_do_what_a_large_batch_does(data: Path, tmp_path: Path) -> None:
    train(read_recipe(data / "tiny.toml"), data, tmp_path / "one")
    changes = ["optimisation.batch=4", "optimisation.accumulate=2"]
    train(read_recipe(data / "tiny.toml", changes), data, tmp_path / "two")
    before, after = weights_of(tmp_path / "one"), weights_of(tmp_path / "two")
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, rtol=1e-3, atol=1e-4)
    assert len([x for x in log_of(tmp_path / "two") if "loss" in x]) == 10  # steps, not batches


def test_processes_share_each_step_of_an_epoch() -> None:
    chances = np.ones(50, np.float32)
    alone = list(EpochSampler(chances, 0, 7, batch=8))
    first, second = (list(EpochSampler(chances, 0, 7, batch=4, rank=r, workers=2)) for r in (0, 1))
    assert len(alone) == 50
    assert len(first) == len(second) == 25
    for step in range(6):
        together = first[4 * step : 4 * step + 4] + second[4 * step : 4 * step + 4]
        assert together == alone[8 * step : 8 * step + 8]
    assert sorted(first + second) == sorted(alone)
    resumed = EpochSampler(chances, 0, 7, batch=4, rank=1, workers=2)
    resumed.skip = 16
    assert list(resumed) == second[8:]
    assert len(resumed) == 17


def test_what_does_not_share_out_evenly_is_left_out() -> None:
    ranks = [list(EpochSampler(np.ones(10, np.float32), 0, 7, 4, rank, 3)) for rank in range(3)]
    assert [len(samples) for samples in ranks] == [3, 3, 3]
    assert len({index for samples in ranks for index, _ in samples}) == 9


def test_the_rate_grows_with_the_samples_of_a_step() -> None:
    plan = {"epochs": 1, "batch": 16, "learning_rate": 0.1}
    plain = Optimisation.model_validate(plan)
    scaled = Optimisation.model_validate(plan | {"rate_is_for": 32, "accumulate": 2})
    assert base_rate(plain, workers=4) == 0.1
    assert base_rate(scaled, workers=4) == pytest.approx(0.4)


def test_processes_that_cannot_meet_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(WorkersError, match="the 2 processes of the run cannot meet"):
        Workers.join("cpu")
