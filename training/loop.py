"""A training run from top to bottom: build, load, for epoch, for batch, step, evaluate, save.

A run's folder holds `log.jsonl` (a line each 50 steps and each epoch), `state.pt` (everything that
a resume needs) and `best.safetensors` (the averaged weights with the best validation AP so far, as
a checkpoint that `hrpose serve --model` takes). The same command resumes with the same bits: a run
may be killed at any moment, and then repeats at most `save_every_s` seconds.
"""

import json
import math
import os
import pickle
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from heads.checkpoint import load_checkpoint, save_checkpoint
from heads.geometry import flip_heatmaps
from heads.image import Image, warp
from heads.network import Network, build, input_tensor
from heads.person import Person, person_score
from heads.skeleton import Skeleton
from heads.spec import NetworkSpec, Provenance
from models.weights import load_strict, load_weights
from training.augment import Augmentation
from training.data import EpochSampler, PoseDataset, chances_of, check_images, read_samples
from training.errors import DataError, StateError, TrainingDiverged
from training.evaluate import Box, Scores, load_annotations, predict_all, score
from training.losses import heatmap_mae, heatmap_mse
from training.recipe import Optimisation, Recipe

LOG_EVERY = 50


@dataclass
class Progress:
    """Where a run is: epochs done, steps done in this one, crops seen, the best AP so far."""

    epoch: int = 0
    step: int = 0
    crops: int = 0
    best_ap: float = -1.0


def train(recipe: Recipe, data: Path, runs: Path, stop_at: float | None = None) -> Path:
    """Trains as the recipe says and returns the best checkpoint.

    data: the folder that the recipe's paths start from.  runs: where run folders are kept.
    stop_at: a time (time.time()) after which the run saves its state and ends.
    Raises DataError, AnnotationError, WeightsError, StateError, or TrainingDiverged.
    """
    how = recipe.optimisation
    folder = runs / recipe.name
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(how.seed)
    if how.threads:
        torch.set_num_threads(how.threads)

    samples, skeleton = read_samples(data / recipe.data.train, data / recipe.data.train_images)
    check_images(samples)
    _check_validation(data / recipe.data.val, data / recipe.data.val_images, skeleton)
    spec = recipe.spec(skeleton)
    views = Augmentation(skeleton, spec.input_size, spec.alignment, **recipe.views.model_dump())
    dataset = PoseDataset(samples, spec.heatmap_codec(), views)
    sampler = EpochSampler(
        chances_of(samples, recipe.data.weights), how.samples_per_epoch, how.seed
    )
    network = build(spec).to(memory_format=torch.channels_last)
    state_file = folder / "state.pt"
    if not state_file.is_file():
        _start_from(network, recipe)
    network.to(how.device)
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(how.ema), use_buffers=True)
    optimizer = make_optimizer(network, how)
    steps_per_epoch = math.ceil(len(sampler) / how.batch)
    schedule = LambdaLR(optimizer, lambda step: rate(step, steps_per_epoch, how))
    progress = Progress()
    state = {
        "network": network, "average": average, "optimizer": optimizer, "schedule": schedule,
    }  # fmt: skip
    _resume(state_file, recipe, state, progress)

    saved = time.monotonic()
    while progress.epoch < how.epochs:
        network.train()
        sampler.epoch, sampler.skip = progress.epoch, progress.step * how.batch
        started, before = time.monotonic(), progress.crops
        with _bar(progress, how.epochs, steps_per_epoch) as bar:
            for images, heatmaps, weights in _loader(dataset, sampler, how):
                loss = _step(network, spec, images, heatmaps, weights, optimizer, how)
                schedule.step()
                average.update_parameters(network)
                progress.step += 1
                progress.crops += len(images)
                crops_per_s = (progress.crops - before) / (time.monotonic() - started)
                bar.update(
                    bar.task_ids[0], completed=progress.step, loss=loss, crops_per_s=crops_per_s
                )
                if progress.step % LOG_EVERY == 0:
                    lr = schedule.get_last_lr()[0]
                    _log(folder, progress, loss=loss, lr=lr, crops_per_s=crops_per_s)
                out_of_time = stop_at is not None and time.time() >= stop_at
                if out_of_time or time.monotonic() - saved > how.save_every_s:
                    _save(state_file, recipe, state, progress)
                    saved = time.monotonic()
                if out_of_time:
                    return folder / "best.safetensors"
        progress.epoch, progress.step = progress.epoch + 1, 0
        averaged = average.module
        assert isinstance(averaged, Network)
        scores = validate(averaged, spec, data / recipe.data.val, data / recipe.data.val_images)
        _log(folder, progress, ap=scores.ap, ap50=scores.ap50, pck=scores.pck, boxes=scores.boxes)
        if scores.ap > progress.best_ap:
            progress.best_ap = scores.ap
            _save_best(folder / "best.safetensors", averaged, spec, recipe, progress, scores)
        _save(state_file, recipe, state, progress)
    return folder / "best.safetensors"


def _check_validation(annotations: Path, images: Path, skeleton: Skeleton) -> None:
    """Finds before the first step what would else end the run after its first epoch."""
    truth = load_annotations(annotations)
    if truth.skeleton.keypoints != skeleton.keypoints:
        raise DataError(f"{annotations.name} has other keypoints than the training data")
    missing = sorted(
        i["file_name"] for i in truth.images if not (images / i["file_name"]).is_file()
    )
    if missing:
        raise DataError(f"{annotations.name}: no photographs {', '.join(missing[:5])}")


def _start_from(network: Network, recipe: Recipe) -> None:
    """Fills in the weights that the recipe starts from; WeightsError unless all of them fit."""
    if recipe.network.init:
        state = load_checkpoint(Path(recipe.network.init))[1]
        others = recipe.network.init_without
        kept = {name: tensor for name, tensor in state.items() if not name.startswith(others)}
        load_strict(network, kept, recipe.network.init)
    if recipe.network.backbone_init:
        load_weights(network.backbone, recipe.network.backbone_init)


def make_optimizer(network: nn.Module, how: Optimisation) -> torch.optim.Optimizer:
    """As the recipe says, in one fused step for all tensors."""
    kind = torch.optim.AdamW if how.optimizer == "adamw" else torch.optim.Adam
    return kind(_groups(network, how.weight_decay), lr=how.learning_rate, fused=True)


def rate(step: int, steps_per_epoch: int, how: Optimisation) -> float:
    """The share of the learning rate that a step, counted over the whole run, is done with."""
    if step < how.warmup_steps:
        return (step + 1) / how.warmup_steps
    if how.schedule == "step":
        return math.prod(0.1 for last in how.milestones if step >= last * steps_per_epoch)
    falling = max(1, how.epochs * steps_per_epoch - how.warmup_steps)
    done = min(1.0, (step - how.warmup_steps) / falling)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))


def _loader(dataset: PoseDataset, sampler: EpochSampler, how: Optimisation) -> DataLoader[Any]:
    """Batches of an epoch; a generator of its own leaves the run's random state alone."""
    return DataLoader(
        dataset,
        how.batch,
        sampler=sampler,
        num_workers=how.workers,
        pin_memory=how.device != "cpu",
        generator=torch.Generator(),
    )


def _bar(progress: Progress, epochs: int, steps: int) -> ProgressBar:
    """An epoch as a line of the terminal; nothing where there is none."""
    bar = ProgressBar(
        TextColumn("epoch {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.5f}  {task.fields[crops_per_s]:.0f} crops/s"),
        TimeRemainingColumn(),
        disable=not sys.stdout.isatty(),
    )
    name = f"{progress.epoch + 1}/{epochs}"
    bar.add_task(name, total=steps, completed=progress.step, loss=math.nan, crops_per_s=0.0)
    return bar


def _step(
    network: nn.Module,
    spec: NetworkSpec,
    images: Tensor,
    heatmaps: Tensor,
    weights: Tensor,
    optimizer: torch.optim.Optimizer,
    how: Optimisation,
) -> float:
    """One step; returns the loss. Images uint8 [N, H, W, 3], the others as `PoseDataset` says."""
    images, heatmaps, weights = (
        t.to(how.device, non_blocking=True) for t in (images, heatmaps, weights)
    )
    x = input_tensor(spec, images).contiguous(memory_format=torch.channels_last)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=how.bf16):
        predicted = network(x)
    predicted = predicted.float()
    if how.loss == "mse":
        loss = heatmap_mse(predicted, heatmaps, weights)
    else:
        loss = heatmap_mae(predicted, heatmaps, weights, how.foreground)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    slope = nn.utils.clip_grad_norm_(network.parameters(), how.clip_norm or math.inf)
    # Looked at before the step, so that no state file ever holds a broken network.
    if not (torch.isfinite(loss) and torch.isfinite(slope)):
        raise TrainingDiverged(
            f"the loss is {loss.item()}, its gradient {slope.item()}; try a lower learning_rate"
        )
    optimizer.step()
    return float(loss.item())


def validate(network: Network, spec: NetworkSpec, annotations: Path, images: Path) -> Scores:
    """AP and PCK with annotated boxes, each crop looked at twice (flip test)."""
    network.eval()
    codec, order = spec.heatmap_codec(), spec.skeleton.flip_order
    device = next(network.parameters()).device

    def predict(image: Image, boxes: Any) -> list[Person]:
        crops = [spec.crop(box) for box in boxes]
        views = np.stack([warp(image, crop) for crop in crops])
        both = np.concatenate([views, views[:, :, ::-1]])
        with torch.inference_mode():
            maps = network(input_tensor(spec, torch.from_numpy(both).to(device)))
        assert isinstance(maps, Tensor)
        heatmaps = maps.cpu().numpy()
        back = flip_heatmaps(heatmaps[len(crops) :], order, spec.alignment)
        mean = np.asarray((heatmaps[: len(crops)] + back) / 2, np.float32)
        found = codec.decode(mean)
        return [
            _person(crop.to_image(p), s, b)
            for crop, p, s, b in zip(crops, *found, boxes, strict=True)
        ]

    truth = load_annotations(annotations)
    results = predict_all(truth, images, predict, "gt")
    return score(truth, results, model=spec.name, boxes="annotated boxes, flip test")


def _person(points: Any, scores: Any, box: Box) -> Person:
    keypoints = np.column_stack([points, scores.clip(0, 1)]).astype(np.float32)
    return Person(keypoints, person_score(keypoints, None), box)


def _groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay on matrices and kernels only: norms and biases are not to be small."""
    decayed = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def _save(path: Path, recipe: Recipe, state: dict[str, Any], progress: Progress) -> None:
    """Writes all that a resume needs; a crash or a full disk leaves the state before."""
    content = {name: part.state_dict() for name, part in state.items()}
    content["progress"] = asdict(progress)
    content["rng"] = torch.get_rng_state()
    content["recipe"] = _identity(recipe)
    temporary = path.with_suffix(".part")
    try:
        with temporary.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        raise StateError(f"{path.name} cannot be written: {error}") from error


def _resume(path: Path, recipe: Recipe, state: dict[str, Any], progress: Progress) -> None:
    """Goes back to a state file where there is one; a damaged or foreign one is an error."""
    if not path.is_file():
        return
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        before = content["recipe"]
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise StateError(
            f"{path} cannot be read; delete it to start again from the beginning"
        ) from error
    if before != _identity(recipe):
        raise StateError(
            f"{path} is of another recipe; give this one another name, or delete the folder"
        )
    for name, part in state.items():
        part.load_state_dict(content[name])
    for name, value in content["progress"].items():
        setattr(progress, name, value)
    torch.set_rng_state(content["rng"])


def _identity(recipe: Recipe) -> str:
    """What must not change between a run's parts; how long and where it runs may."""
    free = {
        "network": {"init", "init_without"},
        "data": {"root"},
        "optimisation": {"epochs", "device", "workers", "threads", "save_every_s"},
    }
    return recipe.model_dump_json(exclude=free)


def _save_best(
    path: Path,
    network: Network,
    spec: NetworkSpec,
    recipe: Recipe,
    progress: Progress,
    scores: Scores,
) -> None:
    provenance = Provenance(
        origin=f"hrpose: recipe {recipe.name}, {progress.crops} crops",
        data=recipe.data.description,
        recipe=_published(recipe).model_dump_json(),
        parameters=sum(p.numel() for p in network.parameters()),
        scores={
            "AP, annotated boxes, flip test": round(scores.ap, 4),
            "PCK@0.2": round(scores.pck, 4),
        },
    )
    save_checkpoint(path, spec.model_copy(update={"provenance": provenance}), network.state_dict())


def _published(recipe: Recipe) -> Recipe:
    """The recipe as others may read it: files by their names, without this machine's folders."""
    network, data = recipe.network, recipe.data
    names = {key: Path(getattr(network, key)).name for key in ("init", "backbone_init")}
    return recipe.model_copy(
        update={
            "network": network.model_copy(update=names),
            "data": data.model_copy(update={"root": ""}),
        }
    )


def _log(folder: Path, progress: Progress, **values: Any) -> None:
    line = asdict(progress) | {"time": round(time.time(), 1)} | values
    with (folder / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
