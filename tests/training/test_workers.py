"""Two processes do what one does with twice the batch; and several batches make one step."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, distributed, nn

from heads.necks import mixing
from tests.conftest import ROOT
from training.data import EpochSampler
from training.errors import DataError, WorkersError
from training.loop import train
from training.recipe import Optimisation, read_recipe
from training.schedule import base_rate
from training.synthetic import write_dataset
from training.workers import PATIENCE, Workers

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


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A meeting of one process."""
    place = (tmp_path / "meeting").as_uri()
    distributed.init_process_group("gloo", init_method=place, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("alone")
def test_gradients_lie_as_their_weights_do() -> None:
    network = mixing([4, 8], 6).to(memory_format=torch.channels_last)
    shared = Workers(0, 2, torch.device("cpu")).share(network)
    maps = [torch.ones(2, 4, 8, 8), torch.ones(2, 8, 4, 4)]
    shared(maps).sum().backward()  # else a warning that steps copy, which is an error here
    for weight in network.parameters():
        assert weight.grad is not None
        assert weight.grad.stride() == weight.stride()


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("idle", [False, True])
def test_a_backbone_may_have_layers_that_lead_nowhere(idle: bool) -> None:
    class Idle(nn.Module):
        may_have_idle_layers = idle

        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.used(x)
            return out

    shared = Workers(0, 2, torch.device("cpu")).share(nn.Sequential(Idle()))
    with nullcontext() if idle else pytest.raises(RuntimeError, match="not used in producing loss"):
        for _ in range(2):
            shared(torch.ones(1, 2)).sum().backward()


def test_processes_share_each_step_of_an_epoch() -> None:
    chances = np.ones(52, np.float32)
    alone = list(EpochSampler(chances, 0, 7, batch=8))
    first, second = (list(EpochSampler(chances, 0, 7, batch=4, rank=r, workers=2)) for r in (0, 1))
    assert len(alone) == 52
    assert len(first) == len(second) == 26
    for step in range(6):
        together = first[4 * step : 4 * step + 4] + second[4 * step : 4 * step + 4]
        assert together == alone[8 * step : 8 * step + 8]
    assert sorted(first + second) == sorted(alone)
    resumed = EpochSampler(chances, 0, 7, batch=4, rank=1, workers=2)
    resumed.skip = 16
    assert list(resumed) == second[8:]
    assert len(resumed) == 18


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


def test_processes_that_go_on_from_different_states_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one of two machines that do not share the runs folder; the first goes on from step 40."""

    def broadcast(tensor: torch.Tensor, src: int) -> None:
        assert src == 0
        tensor.copy_(torch.tensor([1, 40, 640]))

    monkeypatch.setattr(distributed, "broadcast", broadcast)
    monkeypatch.setattr(distributed, "all_reduce", lambda *_: None)
    second = Workers(1, 2, torch.device("cpu"))
    second.must_agree((1, 40, 640))
    with pytest.raises(WorkersError, match="runs folder must be shared by all machines"):
        second.must_agree((0, 0, 0))
    Workers(0, 1, torch.device("cpu")).must_agree((0, 0, 0))


def test_a_process_that_is_right_stops_with_one_that_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(distributed, "broadcast", lambda *_, **__: None)
    monkeypatch.setattr(distributed, "all_reduce", lambda tensor, _: tensor.fill_(1))
    with pytest.raises(WorkersError, match="different states"):
        Workers(0, 2, torch.device("cpu")).must_agree((1, 40, 640))


def test_processes_do_not_share_one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(WorkersError, match=r'2 processes cannot share cuda:1; .* = "cuda"'):
        Workers.join("cuda:1")


def test_a_process_alone_works_on_the_gpu_that_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[torch.device] = []
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert Workers.join("cuda:1") == Workers(0, 1, torch.device("cuda", 1))
    assert Workers.join("cuda").device == torch.device("cuda")
    assert Workers.join("cpu").device == torch.device("cpu")
    assert chosen == [torch.device("cuda", 1)]


def test_the_others_wait_while_the_first_validates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half an hour, the default, is less than a detector takes for COCO."""
    met: list[Any] = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(distributed, "init_process_group", lambda *_, timeout: met.append(timeout))
    monkeypatch.setattr(distributed, "get_rank", lambda: 0)
    Workers.join("cpu")
    assert met == [PATIENCE]


def test_a_last_batch_of_one_sample_is_left_out() -> None:
    """A batch norm over one value cannot be trained, and it would weigh as much as a whole one."""
    sampler = EpochSampler(np.ones(9, np.float32), 0, 7, batch=4)
    assert len(sampler) == len(list(sampler)) == 8
    sampler.skip = 8
    assert list(sampler) == []
    shared = EpochSampler(np.ones(19, np.float32), 0, 7, batch=4, workers=2)  # 8, 8, 2 and 1 over
    assert len(shared) == 8
    assert len(EpochSampler(np.ones(9, np.float32), 0, 7, batch=1)) == 9
    assert len(EpochSampler(np.ones(1, np.float32), 0, 7, batch=4)) == 1  # all there is


def test_the_last_batches_of_an_epoch_make_a_whole_step(data: Path, tmp_path: Path) -> None:
    """Three batches of four in steps of two: the third alone is not half a step."""
    same = ["optimisation.epochs=1", "optimisation.optimizer=sgd", "optimisation.clip_norm=0"]
    steps = []
    for name, changes in (
        ("plain", ["optimisation.samples_per_epoch=4", "optimisation.batch=4"]),
        ("gathered", ["optimisation.samples_per_epoch=4", "optimisation.accumulate=3"]),
    ):
        train(read_recipe(data / "tiny.toml", [*same, *changes]), data, tmp_path / name)
        steps.append(weights_of(tmp_path / name))
    for name, tensor in steps[0].items():
        torch.testing.assert_close(steps[1][name], tensor)


def test_the_last_samples_of_an_epoch_count_as_much_as_any(data: Path, tmp_path: Path) -> None:
    """Seven samples in one batch, and in two: of four and three."""
    same = ["optimisation.epochs=1", "optimisation.optimizer=sgd", "optimisation.clip_norm=0"]
    steps = []
    for name, changes in (
        ("plain", ["optimisation.batch=7"]),
        ("gathered", ["optimisation.batch=4", "optimisation.accumulate=2"]),
    ):
        changes = [*same, "optimisation.samples_per_epoch=7", *changes]
        train(read_recipe(data / "tiny.toml", changes), data, tmp_path / name)
        steps.append(weights_of(tmp_path / name))
    for name, tensor in steps[0].items():
        torch.testing.assert_close(steps[1][name], tensor)


def test_more_processes_than_samples_are_refused() -> None:
    with pytest.raises(DataError, match="4 processes cannot share an epoch of 3 samples"):
        EpochSampler(np.ones(3, np.float32), 0, 0, batch=2, workers=4)
