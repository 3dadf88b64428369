"""The whole run in one function: build, load, for epoch, for batch, step, evaluate, save.

A run lives in a folder: state.pt (all that is needed to go on, written every few minutes),
best.safetensors (the averaged weights with the best measure; what is evaluated and served), and
log.jsonl. The same command resumes; on a processor a resumed run of one process ends with the same
bits as one that was never stopped.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import cv2
import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset, default_collate

from heads.checkpoint import is_checkpoint, load_checkpoint, save_checkpoint
from heads.load import load
from heads.network import Maps, Network, build, input_tensor
from heads.spec import Provenance
from models.errors import HrposeError, WeightsError
from models.weights import load_strict, load_weights, read_state, rename
from training.average import Average
from training.data import EpochSampler
from training.errors import DataError, RecipeError, StateError, TrainingDiverged
from training.freeze import freeze
from training.log import Log, bar
from training.precision import arithmetic
from training.recipe import Optimisation, Recipe
from training.schedule import base_rate, make_optimizer, rate, take_up
from training.state import Progress, StateFile, learned
from training.task import Measured, Samples, Task, make_task
from training.workers import Workers

T = TypeVar("T")

COMPILERS = ("torch._dynamo", "torch._inductor")
"""Where errors come from that `torch.compile` raises when a network is first called."""


def train(recipe: Recipe, data: Path, runs: Path, stop_at: float | None = None) -> Path:
    """Trains as the recipe says and returns the best checkpoint.

    data: the folder that the recipe's paths start from.  runs: where run folders are kept.
    stop_at: a time (time.time()) after which the run saves its state and ends.
    Raises DataError, AnnotationError, WeightsError, StateError, WorkersError,
    RecipeError, or TrainingDiverged.
    """
    workers = Workers.join(recipe.optimisation.device)
    try:
        best = _run(recipe, data, runs, stop_at, workers)
        workers.wait()
        return best
    finally:
        workers.leave()


def _run(recipe: Recipe, data: Path, runs: Path, stop_at: float | None, workers: Workers) -> Path:
    how, watch = recipe.optimisation, recipe.watch
    folder = runs / recipe.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StateError(f"{folder} cannot be made: {error.strerror}") from error
    torch.manual_seed(how.seed)
    if how.threads:
        torch.set_num_threads(how.threads)
        cv2.setNumThreads(how.threads)

    _check_inputs(recipe, data, fresh=not any(folder.glob("state*.pt")))
    task = make_task(recipe, data)
    sampler = EpochSampler(
        task.chances, how.samples_per_epoch, how.seed, how.batch, workers.rank, workers.count
    )
    network = build(task.spec).to(memory_format=torch.channels_last)
    known = learned(task.spec) | {"number of samples": (len(task.samples),)}
    states = StateFile(folder, recipe, watch.keep, workers.count, known)
    if states.newest is None:
        _start_from(network, recipe)
    frozen = freeze(network, how.frozen)
    network.to(workers.device)
    task.to(workers.device)
    average = Average(network, how.ema)
    optimizer = make_optimizer(network, how, workers.count)
    scaler = GradScaler(workers.device.type, enabled=how.precision == "fp16")
    batches = math.ceil(len(sampler) / how.batch)
    steps = math.ceil(batches / how.accumulate)
    schedule = LambdaLR(optimizer, lambda step: rate(step, steps, how))
    progress = Progress()
    state = {
        "network": network, "average": average, "optimizer": optimizer, "schedule": schedule,
        "scaler": scaler,
    }  # fmt: skip
    states.resume(state, progress)
    workers.must_agree((progress.epoch, progress.step, progress.crops))
    take_up(schedule, base_rate(how, workers.count))
    shared = workers.share(network)
    forward: Callable[[Tensor], Maps] = torch.compile(shared) if how.compile else shared
    log = Log(folder, watch.tensorboard) if workers.first else None

    # A GPU has to be waited for to say what a loss was; a processor and fp16 wait in any case.
    read_always = workers.device.type == "cpu" or scaler.is_enabled()
    sound, saved = torch.ones((), dtype=torch.bool, device=workers.device), time.monotonic()
    while progress.epoch < how.epochs:
        network.train()
        for part in frozen:
            part.eval()
        sampler.epoch, sampler.skip = progress.epoch, progress.step * how.batch * workers.count
        started, before = time.monotonic(), progress.crops
        with bar(progress, how.epochs, batches, workers.first) as line:
            for group in _groups(_batches(task, sampler, how), how.accumulate):
                loss = torch.zeros((), device=workers.device)  # the mean of the group's
                samples = sum(len(images) for images, *_ in group)
                for number, (images, *targets) in enumerate(group, start=1):
                    progress.step += 1
                    progress.crops += len(images) * workers.count
                    with workers.apart(shared, more=number < len(group)):
                        loss += _backward(
                            forward, task, images, targets, scaler, how, workers.device,
                            share=len(images) / samples,
                        )  # fmt: skip
                sound &= _step(network, optimizer, scaler, how, loss)
                lr = float(schedule.get_last_lr()[0])
                schedule.step()
                average.update_parameters(network)
                logs = math.ceil(progress.step / how.accumulate) % watch.log_every == 0
                out_of_time = stop_at is not None and workers.agree(time.time() >= stop_at)
                saves = out_of_time or time.monotonic() - saved > how.save_every_s
                if not (read_always or logs or saves or progress.step == batches):
                    continue
                value = _read(loss, sound)
                crops_per_s = (progress.crops - before) / (time.monotonic() - started)
                line.update(
                    line.task_ids[0], completed=progress.step, loss=value, crops_per_s=crops_per_s
                )
                if logs:
                    value = workers.mean(value)
                    if log is not None:
                        log.write(progress, loss=value, lr=lr, crops_per_s=crops_per_s)
                if saves:
                    if workers.first:
                        _check(average)
                        states.save(state, progress)
                    saved = time.monotonic()
                if out_of_time:
                    return folder / "best.safetensors"
        if log is not None and progress.crops > before:
            _check(average)
            states.save(state, progress)  # a crash while it validates costs no training
        progress.epoch, progress.step = progress.epoch + 1, 0
        if log is not None:
            averaged = average.module
            assert isinstance(averaged, Network)
            _finish_epoch(averaged, task, recipe, progress, folder, log)
            states.save(state, progress, instead=True)
    return folder / "best.safetensors"


def _check_inputs(recipe: Recipe, data: Path, *, fresh: bool) -> None:
    """Says which file or folder is missing, before minutes are spent on reading the others."""
    if not data.is_dir():
        raise DataError(f"{data} is no folder; the recipe's data files are looked for in it")
    for key in ("init", "backbone_init") if fresh else ():
        path = Path(getattr(recipe.network, key))
        if path.suffix and not path.is_file():
            raise WeightsError(f"network.{key}: there is no file {path}")


def _finish_epoch(
    network: Network, task: Task, recipe: Recipe, progress: Progress, folder: Path, log: Log
) -> None:
    """Measures the averaged weights and keeps them where they are the best so far."""
    measured = task.validate(network)
    log.write(progress, **measured)
    every = recipe.watch.pictures_every
    if every and progress.epoch % every == 0:
        log.picture(progress, task.picture(network))
    score = float(measured[task.measure])
    if score >= progress.best_score:  # of two zeros the later has learned more
        progress.best_score = score
        _save_best(folder / "best.safetensors", network, task, recipe, progress, measured)


def _start_from(network: Network, recipe: Recipe) -> None:
    """Fills in the weights that the recipe starts from; WeightsError unless all of them fit."""
    if recipe.network.init:
        state = _state_of(recipe.network.init)
        others = recipe.network.init_without
        kept = {name: tensor for name, tensor in state.items() if not name.startswith(others)}
        load_strict(network, kept, recipe.network.init)
    if recipe.network.backbone_init:
        load_weights(network.backbone, recipe.network.backbone_init)


def _state_of(init: str) -> dict[str, Tensor]:
    """The tensors of a network of the zoo, of a checkpoint of ours, or of a public file."""
    path = Path(init)
    if path.suffix == ".safetensors" and is_checkpoint(path):
        return load_checkpoint(path)[1]
    if path.suffix:
        return rename(read_state(path), "auto")
    return load(init).state_dict()


@dataclass(frozen=True)
class _Refused:
    """In the place of samples that cannot be made: why. Raised by a worker it would be a page."""

    reason: str


class _Careful(Dataset[Any]):
    """Samples, or why one cannot be made."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    def __getitem__(self, key: tuple[int, int]) -> Any:
        try:
            return self._samples[key]
        except HrposeError as error:
            return _Refused(str(error))


def _on_one_thread(_: int) -> None:
    """Of several processes that make samples each is one thread, as torch's own part of it is."""
    cv2.setNumThreads(1)


def _collated(samples: list[Any]) -> Any:
    refused = next((sample for sample in samples if isinstance(sample, _Refused)), None)
    return default_collate(samples) if refused is None else refused


def _batches(task: Task, sampler: EpochSampler, how: Optimisation) -> Iterator[list[Tensor]]:
    """Those of an epoch; DataError says what keeps a sample from being made."""
    loader = DataLoader(
        _Careful(task.samples),
        how.batch,
        sampler=sampler,
        num_workers=how.workers,
        collate_fn=_collated,
        pin_memory=how.device != "cpu",
        generator=torch.Generator(),  # the run's own random state is left alone
        worker_init_fn=_on_one_thread,
    )
    for batch in loader:
        if isinstance(batch, _Refused):
            raise DataError(batch.reason)
        yield batch


def _groups(batches: Iterable[T], count: int) -> Iterator[list[T]]:
    """So many at a time, at the end the rest."""
    source = iter(batches)
    while group := list(islice(source, count)):
        yield group


def _backward(
    forward: Callable[[Tensor], Maps],
    task: Task,
    images: Tensor,
    targets: list[Tensor],
    scaler: GradScaler,
    how: Optimisation,
    device: torch.device,
    share: float = 1.0,
) -> Tensor:
    """Adds the gradient of one batch; returns its loss, times its share of a step's samples.

    Images uint8 [N, H, W, 3].
    """
    images = images.to(device, non_blocking=True)
    on_device = [target.to(device, non_blocking=True) for target in targets]
    x, mixed = task.prepare(input_tensor(task.spec, images), on_device)
    x = x.contiguous(memory_format=torch.channels_last)
    kind = arithmetic(how.precision, device)
    with torch.autocast(device.type, kind, enabled=kind != torch.float32):
        answer = _answer(forward, x)
    loss = task.loss(answer, images, mixed) * share
    scaler.scale(loss).backward()
    return loss.detach()


def _answer(forward: Callable[[Tensor], Maps], x: Tensor) -> Maps:
    try:
        return forward(x)
    except RuntimeError as error:
        if not type(error).__module__.startswith(COMPILERS):
            raise
        reason = str(error).strip().partition("\n")[0]
        raise RecipeError(f"optimisation.compile: torch.compile cannot: {reason}") from error
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise RecipeError(
            f"optimisation.batch: {len(x)} is too few for this network's batch norms, whose "
            "coarsest map has one cell a sample; take more, or a larger network.input_size"
        ) from error


def _step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: GradScaler,
    how: Optimisation,
    loss: Tensor,
) -> Tensor:
    """One step along the gradient, which is then forgotten; whether the network is sound still.

    In fp16 a gradient may overflow: the scaler leaves that step out and scales less.
    """
    scaler.unscale_(optimizer)
    slope = nn.utils.clip_grad_norm_(network.parameters(), how.clip_norm or math.inf)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return loss.isfinite() if scaler.is_enabled() else loss.isfinite() & slope.isfinite()


def _read(loss: Tensor, sound: Tensor) -> float:
    """The loss; TrainingDiverged where a step since the start was not sound.

    Asked before anything is saved, so that no state file ever holds a broken network.
    """
    value = float(loss.item())
    if not sound.item():
        raise TrainingDiverged(
            f"a loss or its gradient was not finite (the loss is {value} now); try a lower "
            "learning_rate: the run goes on with it from its newest state"
        )
    return value


def _check(average: nn.Module) -> None:
    """TrainingDiverged where a weight or a norm's mean is not finite: no state file holds that."""
    for name, tensor in average.state_dict().items():
        if not tensor.isfinite().all():
            raise TrainingDiverged(f"{name} is not finite any more; try a lower learning_rate")


def _save_best(
    path: Path,
    network: Network,
    task: Task,
    recipe: Recipe,
    progress: Progress,
    measured: Measured,
) -> None:
    provenance = Provenance(
        origin=f"hrpose: recipe {recipe.name}, {progress.crops} crops",
        data=recipe.data.description,
        recipe=published(recipe).model_dump_json(),
        parameters=sum(p.numel() for p in network.parameters()),
        scores=task.published(measured),
    )
    spec = task.spec.model_copy(update={"provenance": provenance})
    save_checkpoint(path, spec, network.state_dict())


def published(recipe: Recipe) -> Recipe:
    """The recipe as others may read it: files by their names, without this machine's folders."""
    network, data = recipe.network, recipe.data
    names = {key: Path(getattr(network, key)).name for key in ("init", "backbone_init")}
    teacher = recipe.teacher
    if teacher is not None:
        teacher = teacher.model_copy(update={"network": Path(teacher.network).name})
    return recipe.model_copy(
        update={
            "network": network.model_copy(update=names),
            "data": data.model_copy(update={"root": ""}),
            "teacher": teacher,
        }
    )
