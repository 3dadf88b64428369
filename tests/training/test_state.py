"""A run's state on disk: what it goes on with, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from training.errors import StateError
from training.recipe import Recipe, read_recipe
from training.schedule import base_rate, make_optimizer, rate, take_up
from training.state import Progress, StateFile

CUSTOM = Path(__file__).parents[2] / "recipes" / "custom.toml"


def recipe_of(*changes: str) -> Recipe:
    return read_recipe(CUSTOM, changes)


def saved(folder: Path, processes: int = 1) -> Tensor:
    """A state of one epoch in a folder; the weight that is in it."""
    network = nn.Linear(64, 64)
    file = StateFile(folder, recipe_of(), 1, processes)
    file.save({"network": network}, Progress(epoch=1))
    return network.weight.detach()


def resumed(folder: Path, recipe: Recipe | None = None, processes: int = 1) -> Tensor:
    network, progress = nn.Linear(64, 64), Progress()
    StateFile(folder, recipe or recipe_of(), 1, processes).resume({"network": network}, progress)
    assert progress.epoch == 1
    return network.weight.detach()


def rewritten(folder: Path, **fields: Any) -> None:
    """The state with other fields; None: without it."""
    content = torch.load(folder / "state.pt", weights_only=True) | fields
    torch.save({k: v for k, v in content.items() if v is not None}, folder / "state.pt")


def test_another_number_of_processes_is_refused(tmp_path: Path) -> None:
    weight = saved(tmp_path, processes=8)
    with pytest.raises(StateError, match="of a run of 8 processes, this one has 2"):
        resumed(tmp_path, processes=2)
    assert torch.equal(resumed(tmp_path, processes=8), weight)


def test_a_state_of_an_earlier_version_is_gone_on_with(tmp_path: Path) -> None:
    """It did not count processes, and held the learning rate fast."""
    weight = saved(tmp_path, processes=8)
    before = recipe_of("optimisation.learning_rate=5e-4").model_dump_json(
        exclude={"watch": True, "data": {"root"}, "optimisation": {"epochs", "device"}},
        exclude_defaults=True,
    )
    rewritten(tmp_path, processes=None, recipe=before)
    assert torch.equal(resumed(tmp_path, processes=2), weight)


@pytest.mark.parametrize(
    "change", ["optimisation.learning_rate=1e-4", "optimisation.clip_norm=0.1", "watch.keep=5"]
)
def test_what_a_diverged_run_needs_may_change(tmp_path: Path, change: str) -> None:
    weight = saved(tmp_path)
    assert torch.equal(resumed(tmp_path, recipe_of(change)), weight)
    with pytest.raises(StateError, match="of another recipe"):
        resumed(tmp_path, recipe_of("optimisation.batch=31"))


def test_a_resumed_run_goes_on_at_the_recipes_rate(tmp_path: Path) -> None:
    def run(recipe: Recipe) -> tuple[torch.optim.Optimizer, LambdaLR]:
        how = recipe.optimisation
        optimizer = make_optimizer(nn.Linear(2, 2), how)
        schedule = LambdaLR(optimizer, lambda step: rate(step, 100, how))
        StateFile(tmp_path, recipe, 1).resume({"o": optimizer, "s": schedule}, Progress())
        take_up(schedule, base_rate(how))
        return optimizer, schedule

    first = recipe_of("optimisation.learning_rate=1e-3", "optimisation.warmup_steps=2")
    lower = recipe_of("optimisation.learning_rate=1e-4", "optimisation.warmup_steps=2")
    optimizer, schedule = run(first)
    for _ in range(50):
        optimizer.step()
        schedule.step()
    StateFile(tmp_path, first, 1).save({"o": optimizer, "s": schedule}, Progress())
    for recipe, share in ((first, 1.0), (lower, 0.1)):
        again, then = run(recipe)
        for old, new in zip(optimizer.param_groups, again.param_groups, strict=True):
            assert new["lr"] == pytest.approx(share * old["lr"], rel=1e-12)
            assert share < 1 or new["lr"] == old["lr"]  # the same bits
        then.step()
        assert then.get_last_lr()[0] < share * optimizer.param_groups[0]["lr"]


def test_one_changed_byte_of_a_tensor_is_refused(tmp_path: Path) -> None:
    weight = saved(tmp_path)
    path = tmp_path / "state.pt"
    content = bytearray(path.read_bytes())
    content[content.find(weight.numpy().tobytes()[:64]) + 403] ^= 0x7F
    path.write_bytes(content)
    with pytest.raises(StateError, match="cannot be read; delete it"):
        resumed(tmp_path)


def test_damage_of_any_kind_is_a_state_error(tmp_path: Path) -> None:
    weight = saved(tmp_path)
    path = tmp_path / "state.pt"
    sound, rng = path.read_bytes(), np.random.default_rng(0)
    for number in range(300):
        content = bytearray(sound)
        if number % 3 == 0:
            del content[int(rng.integers(len(content))) :]
        else:
            for at in rng.integers(0, len(content), rng.integers(1, 4)):
                content[at] = int(rng.integers(256))
        path.write_bytes(content)
        try:
            assert torch.equal(resumed(tmp_path), weight)
        except StateError:
            continue


def test_a_state_without_what_it_should_hold_is_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    rewritten(tmp_path, network={"weight": torch.zeros(3, 3), "bias": torch.zeros(64)})
    with pytest.raises(StateError, match="cannot be read"):
        resumed(tmp_path)
    rewritten(tmp_path, recipe=json.dumps([]))
    with pytest.raises(StateError, match="cannot be read"):
        resumed(tmp_path)
