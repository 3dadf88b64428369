"""How fast weights move: the optimiser, and the learning rate of every step."""

import math
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from training.muon import Muon
from training.recipe import Optimisation


def make_optimizer(
    network: nn.Module, how: Optimisation, workers: int = 1
) -> torch.optim.Optimizer:
    """As the recipe says; all but Muon in one fused step for all tensors.

    workers: processes that share a step, for the linear scaling of the rate (see `base_rate`).
    """
    if how.optimizer == "muon":
        return Muon(_groups(network, how.weight_decay), lr=base_rate(how, workers))
    kind = torch.optim.AdamW if how.optimizer == "adamw" else torch.optim.Adam
    groups = _groups(network, how.weight_decay)
    if how.optimizer == "sgd":
        return torch.optim.SGD(
            groups, lr=base_rate(how, workers), momentum=0.9, nesterov=True, fused=True
        )
    return kind(groups, lr=base_rate(how, workers), fused=True)


def base_rate(how: Optimisation, workers: int = 1) -> float:
    """The highest learning rate of a run.

    Where the recipe says which batch its rate is for, it grows in proportion to the samples of a
    step over all processes (Goyal et al. 2017, arXiv:1706.02677, section 2.1).
    """
    if not how.rate_is_for:
        return how.learning_rate
    return how.learning_rate * how.batch * how.accumulate * workers / how.rate_is_for


def take_up(schedule: LambdaLR, base: float) -> None:
    """Goes on at the recipe's rate, where a resumed state brought the one that it was saved with.

    base: see `base_rate`.
    """
    schedule.base_lrs = [base for _ in schedule.base_lrs]
    for group, share in zip(schedule.optimizer.param_groups, schedule.lr_lambdas, strict=True):
        group["initial_lr"], group["lr"] = base, base * share(schedule.last_epoch)


def rate(step: int, steps_per_epoch: int, how: Optimisation) -> float:
    """The share of the learning rate that a step, counted over the whole run, is done with."""
    if step < how.warmup_steps:
        return (step + 1) / how.warmup_steps
    if how.schedule == "step":
        return math.prod(0.1 for last in how.milestones if step >= last * steps_per_epoch)
    falling = max(1, how.epochs * steps_per_epoch - how.warmup_steps)
    done = min(1.0, (step - how.warmup_steps) / falling)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))


def _groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay on matrices and kernels only: norms and biases are not to be small."""
    trained = [p for p in network.parameters() if p.requires_grad]
    decayed = [p for p in trained if p.ndim > 1]
    others = [p for p in trained if p.ndim <= 1]
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
