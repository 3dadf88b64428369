"""The run: rates, killed and resumed runs, damaged states, full disks, what is written."""

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch._inductor.exc import InductorError

from heads.checkpoint import load_checkpoint, load_network, read_spec, save_checkpoint
from heads.network import Network, build
from heads.spec import NetworkSpec
from models.errors import HrposeError, WeightsError
from tests.training.damage import changed
from training import loop
from training.average import Average
from training.errors import DataError, RecipeError, StateError, TrainingDiverged
from training.loop import train
from training.pose import PoseTask
from training.recipe import Optimisation, Recipe, read_recipe
from training.schedule import make_optimizer, rate
from training.synthetic import write_dataset
from training.task import Measured

ROOT = Path(__file__).parents[2]
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
description = "drawn people"
[optimisation]
epochs = 1
samples_per_epoch = 8
batch = 4
warmup_steps = 2
threads = 1
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_dataset(folder, 3)
    (folder / "tiny.toml").write_text(RECIPE)
    return folder


def recipe_of(data: Path, *changes: str) -> Recipe:
    return read_recipe(data / "tiny.toml", changes)


def log_of(runs: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (runs / "tiny" / "log.jsonl").read_text().splitlines()]


def tensors_of(runs: Path) -> dict[str, torch.Tensor]:
    content = torch.load(runs / "tiny" / "state.pt", weights_only=True)
    state: dict[str, torch.Tensor] = content["network"] | content["average"]
    return state


def how(**changes: Any) -> Optimisation:
    return Optimisation.model_validate({"epochs": 10, "samples_per_epoch": 320} | changes)


def test_the_rate_rises_in_a_line_and_falls_as_a_cosine() -> None:
    plan = how(warmup_steps=4)
    assert [rate(step, 10, plan) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert rate(4, 10, plan) == 1
    assert rate(52, 10, plan) == pytest.approx(0.505)  # halfway between 4 and 100
    assert rate(100, 10, plan) == pytest.approx(0.01)


def test_the_log_has_the_rate_of_its_own_step(data: Path, tmp_path: Path) -> None:
    changes = ("optimisation.learning_rate=1.0", "optimisation.optimizer=sgd", "watch.log_every=1")
    train(recipe_of(data, *changes, "optimisation.warmup_steps=2"), data, tmp_path)
    rates = [line["lr"] for line in log_of(tmp_path) if "lr" in line]
    plan = recipe_of(data, *changes, "optimisation.warmup_steps=2").optimisation
    assert rates == pytest.approx([rate(step, 2, plan) for step in range(2)])


def test_a_batch_too_small_for_its_norms_is_said_in_one_line(data: Path, tmp_path: Path) -> None:
    changes = ("optimisation.batch=1", "network.input_size=[32, 32]")
    with pytest.raises(RecipeError, match=r"optimisation\.batch: 1 is too few"):
        train(recipe_of(data, *changes), data, tmp_path)


def test_a_step_schedule_falls_to_a_tenth_after_each_milestone() -> None:
    plan = how(warmup_steps=0, schedule="step", milestones=[3, 7])
    rates = [rate(step, 10, plan) for step in (0, 29, 30, 69, 70, 99)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_only_matrices_decay(kind: str) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    optimizer = make_optimizer(network, how(optimizer=kind, weight_decay=0.1))
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert {name: decay[id(p)] for name, p in network.named_parameters()} == {
        "0.weight": 0.1, "0.bias": 0.0, "1.weight": 0.0, "1.bias": 0.0,
    }  # fmt: skip
    assert type(optimizer).__name__.lower() == kind


@pytest.mark.parametrize(
    "changes",
    [
        ["optimisation.loss=mae", "optimisation.foreground=10.0"],
        ["optimisation.optimizer=adam", "optimisation.clip_norm=0", "optimisation.ema=0"],
        ["network.alignment=legacy", "optimisation.samples_per_epoch=0"],
    ],
)
def test_a_run_writes_a_network_that_loads_with_what_it_is_worth(
    data: Path, tmp_path: Path, changes: list[str]
) -> None:
    recipe = recipe_of(data, *changes)
    best = train(recipe, data, tmp_path)
    provenance = read_spec(best).provenance
    assert Recipe.model_validate_json(provenance.recipe) == recipe
    assert provenance.data == "drawn people"
    last = log_of(tmp_path)[-1]
    assert provenance.scores["AP, annotated boxes, flip test"] == round(last["ap"], 4)
    assert last["crops"] == (recipe.optimisation.samples_per_epoch or 3)
    network = load_network(best)
    assert network.spec.alignment == recipe.network.alignment
    assert sum(p.numel() for p in network.parameters()) == provenance.parameters


def test_a_run_starts_from_the_weights_that_the_recipe_names(data: Path, tmp_path: Path) -> None:
    """With a rate of nearly nothing, what comes out is what went in."""
    first = train(recipe_of(data), data, tmp_path / "first")
    still = "optimisation.learning_rate=1e-12"
    again = train(recipe_of(data, f"network.init={first}", still), data, tmp_path / "again")
    before, after = load_checkpoint(first)[1], load_checkpoint(again)[1]
    assert all(
        torch.allclose(before[k], after[k], atol=1e-6) for k in before if k.endswith("weight")
    )
    kept = json.loads(read_spec(tmp_path / "again" / "tiny" / "best.safetensors").provenance.recipe)
    assert kept["network"]["init"] == "best.safetensors"  # folders of this machine stay here
    torch.save(before, tmp_path / "public.pth")
    public = f"network.init={tmp_path / 'public.pth'}"
    other = load_checkpoint(train(recipe_of(data, public, still), data, tmp_path / "pth"))[1]
    assert all(
        torch.allclose(before[k], other[k], atol=1e-6) for k in before if k.endswith("weight")
    )
    save_file(before, tmp_path / "public.safetensors")
    public = f"network.init={tmp_path / 'public.safetensors'}"
    other = load_checkpoint(train(recipe_of(data, public, still), data, tmp_path / "bare"))[1]
    assert all(
        torch.allclose(before[k], other[k], atol=1e-6) for k in before if k.endswith("weight")
    )
    with pytest.raises(HrposeError, match="no network called 'nobody'"):
        train(recipe_of(data, "network.init=nobody"), data, tmp_path / "none")
    backbone = {k: v for k, v in before.items() if k.startswith("backbone.")}
    torch.save(backbone, tmp_path / "backbone.pth")
    change = f"network.backbone_init={tmp_path / 'backbone.pth'}"
    part = load_checkpoint(train(recipe_of(data, change, still), data, tmp_path / "part"))[1]
    for name in (k for k in before if k.endswith("weight") and before[k].ndim == 4):
        same = torch.allclose(part[name], before[name], atol=1e-6)
        assert same == name.startswith("backbone.")


def test_a_run_starts_from_a_part_of_another_network(data: Path, tmp_path: Path) -> None:
    """Its own tensors from a file that holds more; any other that is left over is an error."""
    first = train(recipe_of(data), data, tmp_path / "first")
    more = {f"extra.{k}": v for k, v in load_checkpoint(first)[1].items() if "running" not in k}
    both = load_checkpoint(first)[1] | more
    whole = tmp_path / "whole.safetensors"
    save_checkpoint(whole, read_spec(first), both)
    still = ("optimisation.learning_rate=1e-12", f"network.init={whole}")
    with pytest.raises(WeightsError, match=r"unexpected \(extra"):
        train(recipe_of(data, *still), data, tmp_path / "refused")
    without = "network.init_without=['extra.']"
    after = load_checkpoint(train(recipe_of(data, *still, without), data, tmp_path / "part"))[1]
    before = load_checkpoint(first)[1]
    assert all(
        torch.allclose(before[k], after[k], atol=1e-6) for k in before if k.endswith("weight")
    )


def test_frozen_parts_end_as_they_began(data: Path, tmp_path: Path) -> None:
    """To the bit, the means of their norms included, and weight decay; all else learns."""
    first = train(recipe_of(data), data, tmp_path / "first")
    changes = (f"network.init={first}", "optimisation.frozen=['backbone.features.0']")
    best = train(recipe_of(data, *changes), data, tmp_path / "second")
    before, after = load_checkpoint(first)[1], load_checkpoint(best)[1]
    same = {name for name in before if torch.equal(before[name], after[name])}
    frozen = {name for name in before if name.startswith("backbone.features.0.")}
    assert len(frozen) == 6
    assert same == frozen


@pytest.mark.parametrize(
    ("frozen", "message"),
    [
        ("['backbone.stem']", "there is no backbone.stem; where 'stem' stands it has features"),
        ("['neck']", "there is no neck; where 'neck' stands it has backbone, head"),
        ("['backbone', 'head']", "leaves nothing to train"),
    ],
)
def test_parts_that_cannot_be_frozen_are_named(
    data: Path, tmp_path: Path, frozen: str, message: str
) -> None:
    first = train(recipe_of(data), data, tmp_path / "first")
    changes = (f"network.init={first}", f"optimisation.frozen={frozen}")
    with pytest.raises(RecipeError, match=message):
        train(recipe_of(data, *changes), data, tmp_path / "second")


def test_nothing_is_frozen_at_random_weights(data: Path) -> None:
    with pytest.raises(RecipeError, match=r"frozen needs network\.init or"):
        recipe_of(data, "optimisation.frozen=['backbone']")


def test_a_run_may_be_made_longer_but_not_another(data: Path, tmp_path: Path) -> None:
    train(recipe_of(data), data, tmp_path)
    train(recipe_of(data, "optimisation.epochs=2"), data, tmp_path)
    assert [line["epoch"] for line in log_of(tmp_path)] == [1, 2]
    with pytest.raises(StateError, match=r"differs in optimisation\.batch, views\.flip; give"):
        train(recipe_of(data, "optimisation.batch=2", "views.flip=0.0"), data, tmp_path)
    said = recipe_of(data, "optimisation.epochs=3", "data.description=in other words")
    train(said, data, tmp_path)


def test_a_run_does_not_go_on_with_other_people(data: Path, tmp_path: Path) -> None:
    train(recipe_of(data), data, tmp_path / "runs")
    write_dataset(tmp_path, 7)
    with pytest.raises(StateError, match="is of the number of samples 3; the data now has 7"):
        train(recipe_of(data, "optimisation.epochs=2"), tmp_path, tmp_path / "runs")


def test_what_is_not_there_is_said_before_data_is_read(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "make_task", lambda *_: pytest.fail("it was read"))
    with pytest.raises(DataError, match="nowhere is no folder"):
        train(recipe_of(data), tmp_path / "nowhere", tmp_path / "runs")
    for key in ("init", "backbone_init"):
        with pytest.raises(WeightsError, match=rf"network\.{key}: there is no file no\.pth"):
            train(recipe_of(data, f"network.{key}=no.pth"), data, tmp_path / "runs")


def test_a_network_that_cannot_be_compiled_is_said_in_one_line(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As without a compiler; which is found out when the network is first called."""

    def compiled(_: nn.Module) -> Callable[..., None]:
        def fail(*_: Any) -> None:
            raise InductorError(RuntimeError("No working C++ compiler found\nmore"), None)

        return fail

    monkeypatch.setattr(torch, "compile", compiled)
    with pytest.raises(RecipeError, match=r"optimisation\.compile: .*compiler found$"):
        train(recipe_of(data, "optimisation.compile=true"), data, tmp_path)


@pytest.mark.parametrize("damage", [b"", b"not a state", None])
def test_a_damaged_state_is_refused_and_kept(
    data: Path, tmp_path: Path, damage: bytes | None
) -> None:
    train(recipe_of(data), data, tmp_path)
    state = tmp_path / "tiny" / "state.pt"
    content = state.read_bytes()[:-1000] if damage is None else damage
    state.write_bytes(content)
    with pytest.raises(StateError, match="cannot be read; delete it"):
        train(recipe_of(data, "optimisation.epochs=2"), data, tmp_path)
    assert state.read_bytes() == content


def test_a_full_disk_leaves_the_state_before(data: Path, tmp_path: Path) -> None:
    train(recipe_of(data), data, tmp_path)
    folder = tmp_path / "tiny"
    before = (folder / "state.pt").read_bytes()
    (folder / "state.part").symlink_to("/dev/full")
    with pytest.raises(StateError, match="cannot be written"):
        train(recipe_of(data, "optimisation.epochs=2"), data, tmp_path)
    assert (folder / "state.pt").read_bytes() == before
    train(recipe_of(data, "optimisation.epochs=2"), data, tmp_path)  # with room again
    assert log_of(tmp_path)[-1]["epoch"] == 2


def test_a_run_that_diverges_leaves_a_sound_state(data: Path, tmp_path: Path) -> None:
    """The state is written after every step, and no step is done along a broken gradient."""
    changes = ["learning_rate=1e30", "clip_norm=0", "save_every_s=1e-9"]
    with pytest.raises(TrainingDiverged, match="lower learning_rate"):
        train(recipe_of(data, *(f"optimisation.{c}" for c in changes)), data, tmp_path)
    floating = [t for t in tensors_of(tmp_path).values() if t.is_floating_point()]
    assert floating
    assert all(t.isfinite().all() for t in floating)


def run(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "training", *arguments],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_a_short_run_learns_where_drawn_people_have_their_keypoints(
    data: Path, tmp_path: Path
) -> None:
    """150 steps, enough for four seeds; the long form, to AP > 0.9, is in test_training.py."""
    changes = [
        'network.backbone={name="mobilenet_v2", options={width_multiplier=0.25}}',
        "network.head.channels=32",
        *(
            f"views.{k}=0"
            for k in ("scale", "rotation_deg", "shift", "flip", "half_body", "colour")
        ),
        *(f"optimisation.{c}" for c in ("samples_per_epoch=1200", "batch=8", "warmup_steps=10")),
        *(f"optimisation.{c}" for c in ("learning_rate=3e-3", "ema=0.9", "precision=fp32")),
    ]
    train(recipe_of(data, *changes), data, tmp_path)
    last = log_of(tmp_path)[-1]
    assert last["pck"] > 0.9
    assert last["ap"] > 0.4


@pytest.mark.slow
def test_a_run_killed_within_an_epoch_ends_with_the_same_bits(data: Path, tmp_path: Path) -> None:
    """SIGKILL at three moments, whatever it is doing then; the same command goes on."""
    command = [
        str(data / "tiny.toml"), "--data", str(data), "--set", "optimisation.epochs=2",
        "--set", "optimisation.samples_per_epoch=160", "--set", "optimisation.save_every_s=0.05",
    ]  # fmt: skip
    whole = run(*command, "--runs", str(tmp_path / "whole"))
    whole.communicate(timeout=120)
    assert whole.returncode == 0
    state = tmp_path / "killed" / "tiny" / "state.pt"
    steps = []
    for wanted in (10, 30, 50):
        process = run(*command, "--runs", str(tmp_path / "killed"))
        end = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < end:
            with contextlib.suppress(OSError, KeyError):
                progress = torch.load(state, weights_only=True)["progress"]
                if progress["epoch"] * 40 + progress["step"] >= wanted:
                    break
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=30)
        assert process.returncode == -signal.SIGKILL
        progress = torch.load(state, weights_only=True)["progress"]
        steps.append(progress["step"])
    assert any(0 < step < 40 for step in steps)
    last = run(*command, "--runs", str(tmp_path / "killed"))
    last.communicate(timeout=120)
    assert last.returncode == 0
    first, second = tensors_of(tmp_path / "whole"), tensors_of(tmp_path / "killed")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    whole_best, best = (tmp_path / r / "tiny" / "best.safetensors" for r in ("whole", "killed"))
    assert best.read_bytes() == whole_best.read_bytes()


@pytest.mark.slow
def test_the_command_line_says_what_is_wrong_in_one_line(data: Path, tmp_path: Path) -> None:
    process = run(str(data / "tiny.toml"), "--data", str(tmp_path), "--runs", str(tmp_path / "r"))
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert error.startswith("tiny.toml: people.json cannot be read: No such file or directory")
    assert "Traceback" not in error
    process = run(str(data / "tiny.toml"), "--set", "views.colr=1", "--data", str(data))
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert error.startswith("tiny.toml, views.colr: ")


@pytest.mark.slow
def test_one_worker_makes_the_same_run_as_none(data: Path, tmp_path: Path) -> None:
    train(recipe_of(data), data, tmp_path / "none")
    train(recipe_of(data, "optimisation.workers=1"), data, tmp_path / "one")
    first, second = tensors_of(tmp_path / "none"), tensors_of(tmp_path / "one")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_memory_stays_level_over_many_steps(data: Path, tmp_path: Path) -> None:
    """Resident memory after 15 epochs of 2 steps is that after 5, give or take 16 MB."""

    def resident() -> float:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    train(recipe_of(data, "optimisation.epochs=5"), data, tmp_path)
    before = resident()
    train(recipe_of(data, "optimisation.epochs=15"), data, tmp_path)
    assert resident() - before < 16
    assert math.isfinite(log_of(tmp_path)[-1]["ap"])


STILL = [
    f"views.{k}=0.0" for k in ("scale", "rotation_deg", "shift", "flip", "half_body", "colour")
]


def test_three_people_are_learnt_to_a_tenth_of_the_loss(data: Path, tmp_path: Path) -> None:
    changes = [
        "watch.log_every=1",
        "network.backbone.options.width_multiplier=0.25",
        "network.head.channels=32",
        "optimisation.samples_per_epoch=480",
        "optimisation.learning_rate=3e-3",
        "optimisation.precision=fp32",
    ]
    train(recipe_of(data, *STILL, *changes), data, tmp_path)
    losses = [line["loss"] for line in log_of(tmp_path) if "loss" in line]
    assert len(losses) == 120
    assert sum(losses[-10:]) / 10 < 0.1 * losses[0]


class StopAfter:
    """A time that is over after so many steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def __le__(self, _: float) -> bool:
        self.left -= 1
        return self.left <= 0


@pytest.mark.parametrize("steps", [2, 3, 4])
def test_a_network_with_dropout_resumes_with_the_same_bits(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    """An epoch has 3 steps, its last of 2 samples: within it, at its end, and in the next."""

    def with_dropout(spec: NetworkSpec) -> Network:
        network = build(spec)
        network.head = nn.Sequential(network.head, nn.Dropout(0.3))
        return network

    monkeypatch.setattr(loop, "build", with_dropout)
    recipe = recipe_of(data, "optimisation.epochs=2", "optimisation.samples_per_epoch=10")
    train(recipe, data, tmp_path / "whole")
    train(recipe, data, tmp_path / "parts", StopAfter(steps))  # type: ignore[arg-type]
    torch.manual_seed(99)  # whatever happened in between
    torch.rand(7)
    train(recipe, data, tmp_path / "parts")
    whole, parts = tensors_of(tmp_path / "whole"), tensors_of(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("no file", r"val\.json"),
        ("no photograph", r"val\.json has 1 error: 9\.png: is not in"),
        ("other keypoints", r"val\.json has other keypoints"),
        ("other sigmas", r"val\.json has other sigmas"),
    ],
)
def test_wrong_validation_data_stops_a_run_before_its_first_step(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str, reason: str
) -> None:
    content = json.loads((data / "people.json").read_text())
    if damage == "no photograph":
        content["images"][0]["file_name"] = "9.png"
    if damage == "other keypoints":
        content["categories"][0]["keypoints"][0] = "chin"
    if damage == "other sigmas":
        content["categories"][0]["sigmas"] = [0.05] * 17
    if damage != "no file":
        (tmp_path / "val.json").write_text(json.dumps(content))

    def step(*_: Any) -> float:
        raise AssertionError("a step was done")

    monkeypatch.setattr(loop, "_step", step)
    with pytest.raises(HrposeError, match=reason):
        train(recipe_of(data, f"data.val={tmp_path / 'val.json'}"), data, tmp_path / "runs")


def test_bad_entries_stop_a_run_unless_the_recipe_leaves_them_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def change(content: dict[str, Any]) -> None:
        content["annotations"][1]["bbox"] = [0, 0, 0, 0]

    write_dataset(tmp_path, 3)
    (tmp_path / "tiny.toml").write_text(RECIPE)
    changed(tmp_path / "people.json", change)
    with pytest.raises(DataError, match=r"people\.json has 1 error: 2\.png, annotation 2: the box"):
        train(recipe_of(tmp_path), tmp_path, tmp_path / "runs")
    assert not list((tmp_path / "runs" / "tiny").glob("*"))
    recipe = recipe_of(tmp_path, "data.skip_bad=true", "optimisation.samples_per_epoch=0")
    train(recipe, tmp_path, tmp_path / "runs")
    assert log_of(tmp_path / "runs")[-1]["crops"] == 2
    assert caplog.messages == ["people.json: left out by data.skip_bad for errors: 1"] * 2


def test_a_run_goes_on_behind_a_torn_line_of_its_log(data: Path, tmp_path: Path) -> None:
    train(recipe_of(data), data, tmp_path)
    path = tmp_path / "tiny" / "log.jsonl"
    path.write_text(path.read_text() + '{"epoch": 1, "st')
    train(recipe_of(data, "optimisation.epochs=2"), data, tmp_path)
    *_, torn, whole = path.read_text().splitlines()
    assert torn == '{"epoch": 1, "st'
    assert json.loads(whole)["epoch"] == 2


def test_a_crash_while_it_validates_costs_no_training(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(recipe_of(data, "optimisation.epochs=2"), data, tmp_path / "whole")

    def crash(*_: Any) -> Measured:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(PoseTask, "validate", crash)
        with pytest.raises(KeyboardInterrupt):
            train(recipe_of(data, "optimisation.epochs=2"), data, tmp_path / "parts")
    state = torch.load(tmp_path / "parts" / "tiny" / "state.pt", weights_only=True)
    assert (state["progress"]["epoch"], state["progress"]["step"]) == (0, 2)
    train(recipe_of(data, "optimisation.epochs=2"), data, tmp_path / "parts")
    whole, parts = tensors_of(tmp_path / "whole"), tensors_of(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    aps = [[x["ap"] for x in log_of(tmp_path / run) if "ap" in x] for run in ("whole", "parts")]
    assert aps[0] == aps[1]


@pytest.mark.parametrize("overflow", [1, 2])
def test_an_overflow_in_any_batch_of_a_step_stops_a_run_in_fp16(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overflow: int
) -> None:
    """The scaler leaves such a step out; the means of the batch norms are broken all the same."""
    batches = 0

    def prepare(_: PoseTask, x: Tensor, targets: Any) -> tuple[Tensor, Any]:
        nonlocal batches
        batches += 1
        return (x * 6e4 if batches == overflow else x), targets

    monkeypatch.setattr(PoseTask, "prepare", prepare)
    recipe = recipe_of(data, "optimisation.precision=fp16", "optimisation.accumulate=2")
    with pytest.raises(TrainingDiverged, match="not finite"):
        train(recipe, data, tmp_path)
    assert not list((tmp_path / "tiny").glob("*.pt"))


def test_a_network_that_is_broken_is_not_saved(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = loop._step

    def broken(network: nn.Module, *others: Any) -> Tensor:
        sound = step(network, *others)
        with torch.no_grad():
            next(iter(network.parameters())).fill_(math.nan)  # unseen by loss and slope
        return sound

    monkeypatch.setattr(loop, "_step", broken)
    with pytest.raises(TrainingDiverged, match=r"backbone\..* is not finite any more"):
        train(recipe_of(data, "optimisation.samples_per_epoch=4"), data, tmp_path)
    assert not list((tmp_path / "tiny").glob("*.pt"))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_photograph_that_cannot_be_read_is_named_in_one_line(
    tmp_path: Path, workers: int
) -> None:
    write_dataset(tmp_path, 3)
    (tmp_path / "tiny.toml").write_text(RECIPE)
    (tmp_path / "2.png").write_bytes(b"what")
    with pytest.raises(DataError) as caught:
        train(recipe_of(tmp_path, f"optimisation.workers={workers}"), tmp_path, tmp_path / "runs")
    assert str(caught.value).startswith("2.png: not an image")
    assert "\n" not in str(caught.value)


def test_a_photograph_of_another_size_than_its_labels_is_named(tmp_path: Path) -> None:
    write_dataset(tmp_path, 3)
    (tmp_path / "tiny.toml").write_text(RECIPE)

    changed(tmp_path / "people.json", lambda content: content["images"][0].update(width=4000))
    with pytest.raises(DataError, match=r"1\.png is \d+ x \d+ pixels, its labels are of 4000 x"):
        train(recipe_of(tmp_path, "optimisation.samples_per_epoch=0"), tmp_path, tmp_path / "runs")


def test_a_run_does_not_go_on_with_other_keypoints(data: Path, tmp_path: Path) -> None:
    train(recipe_of(data), data, tmp_path / "runs")
    for file in data.glob("*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())

    def rename(content: dict[str, Any]) -> None:
        names = content["categories"][0]["keypoints"]
        names[0], names[1] = names[1], names[0]

    changed(tmp_path / "people.json", rename)
    with pytest.raises(StateError, match=r"is of the keypoints nose, left_eye.*; the data now has"):
        train(recipe_of(data, "optimisation.epochs=2"), tmp_path, tmp_path / "runs")


def test_a_full_disk_at_the_log_is_said_with_its_name(data: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "log.jsonl").symlink_to("/dev/full")
    with pytest.raises(StateError, match=r"log\.jsonl cannot be written: No space left"):
        train(recipe_of(data), data, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match="tiny cannot be made: Not a directory"):
        train(recipe_of(data), data, tmp_path / "file")


@pytest.mark.parametrize("device", ["cuda", "cuda:7"])
def test_a_gpu_that_is_not_there_is_said_before_data_is_read(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(HrposeError, match=r"there is no cuda(:7)? here.*device=cpu"):
        train(recipe_of(data, f"optimisation.device={device}"), tmp_path / "nowhere", tmp_path)


def test_the_average_forgets_as_fast_as_the_recipe_says(data: Path, tmp_path: Path) -> None:
    """It begins with the first step's weights; after the second it has 1 part of those to 7."""
    changes = ["optimisation.ema=0.125", "optimisation.save_every_s=1e-9", "watch.keep=4"]
    train(recipe_of(data, *changes), data, tmp_path)
    first, last = (
        torch.load(tmp_path / "tiny" / name, weights_only=True)
        for name in ("state.2.pt", "state.pt")
    )
    assert (first["progress"]["step"], last["progress"]["crops"]) == (1, 8)
    for name, weight in last["network"].items():
        expected = 0.125 * first["network"][name] + 0.875 * weight
        if weight.is_floating_point():
            torch.testing.assert_close(last["average"][f"module.{name}"], expected)


def test_the_average_of_a_short_run_is_not_its_beginning() -> None:
    """After n steps it keeps (1 + n) / (5 + n) of itself, until that is more than the decay."""
    network = nn.Linear(1, 1, bias=False)
    average, expected = Average(network, 0.9), 0.0
    for step in range(200):
        nn.init.constant_(network.weight, float(step))
        average.update_parameters(network)
        kept = min(0.9, (1 + step) / (5 + step)) if step else 0.0
        expected = kept * expected + (1 - kept) * step
        assert average.get_parameter("module.weight").item() == pytest.approx(expected, rel=1e-5)
    assert expected == pytest.approx(199 - 9, rel=1e-3)  # as far behind as the decay says


def test_of_epochs_that_are_worth_the_same_the_last_is_kept(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small runs begin with several of AP 0."""
    monkeypatch.setattr(PoseTask, "validate", lambda *_: {"ap": 0.0})
    best = train(recipe_of(data, "optimisation.epochs=3"), data, tmp_path)
    assert read_spec(best).provenance.origin == "hrpose: recipe tiny, 24 crops"


def test_a_worse_epoch_does_not_replace_the_best(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    falling = iter([0.25, 0.5, 0.375])
    monkeypatch.setattr(PoseTask, "validate", lambda *_: {"ap": next(falling)})
    best = train(recipe_of(data, "optimisation.epochs=3"), data, tmp_path)
    assert read_spec(best).provenance.scores == {"AP, annotated boxes, flip test": 0.5}
