"""Muon: in the step of a matrix no direction is longer than another.

Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks",
kellerjordan.github.io/posts/muon. The step is the gradient's running mean with all singular values
brought to about 1, so that rare directions are learned as fast as frequent ones, and more is
learned from few steps than by AdamW (docs/training.md has a measurement). Its length is then
AdamW's (Liu et al. 2025, arXiv:2502.16982, section 2.2), so learning rates mean the same.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim import Optimizer

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic that singular values go through; five times bring those over 0.002 near 1."""
ITERATIONS = 5
LENGTH = 0.2
"""Root mean square of an AdamW step's entries, at a learning rate of 1."""
MOMENTUM = 0.95
BETAS = (0.9, 0.99)
EPSILON = 1e-8


class Muon(Optimizer):
    """Muon for parameters of two axes and more, AdamW for the others (biases and norms).

    A kernel [out, in, kh, kw] counts as the matrix [out, in kh kw]. Weight decay is taken off the
    weights.
    """

    def __init__(self, params: Iterable[Any], lr: float = 1e-3, weight_decay: float = 0.01) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Moves every parameter that has a gradient.

        closure: computes the gradients first; its loss is returned, as by torch's optimisers.
        """
        with torch.enable_grad():
            loss = None if closure is None else closure()
        with torch.no_grad():
            for group in self.param_groups:
                self._move([p for p in group["params"] if p.grad is not None], group)
        return loss

    def _move(self, params: Iterable[Tensor], group: Mapping[str, Any]) -> None:
        lr, shrink = group["lr"], 1 - group["lr"] * group["weight_decay"]
        matrices: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for p in params:
            assert p.grad is not None
            p.mul_(shrink)
            if p.ndim > 1:
                matrices[tuple(p.shape)].append((p, self._momentum(p, p.grad)))
            else:
                p.add_(self._adam(p, p.grad), alpha=-lr)
        for shape, members in matrices.items():
            # Equal shapes together: a network has many small ones.
            steps = orthogonalise(torch.stack([m.flatten(1) for _, m in members]))
            length = LENGTH * math.sqrt(max(steps.shape[1:]))
            for (p, _), step in zip(members, steps, strict=True):
                p.add_(step.view(shape), alpha=-lr * length)

    def _momentum(self, p: Tensor, gradient: Tensor) -> Tensor:
        """The gradient's running mean, looked ahead by one step (Nesterov)."""
        state = self.state[p]
        if not state:
            state["mean"] = torch.zeros_like(p)
        state["mean"].lerp_(gradient, 1 - MOMENTUM)
        return torch.lerp(gradient, state["mean"], MOMENTUM).contiguous()

    def _adam(self, p: Tensor, gradient: Tensor) -> Tensor:
        """Adam's step (Kingma and Ba 2014, arXiv:1412.6980, algorithm 1)."""
        state = self.state[p]
        if not state:
            state.update(step=0, mean=torch.zeros_like(p), square=torch.zeros_like(p))
        state["step"] += 1
        state["mean"].lerp_(gradient, 1 - BETAS[0])
        state["square"].lerp_(gradient.square(), 1 - BETAS[1])
        mean: Tensor = state["mean"] / (1 - BETAS[0] ** state["step"])
        square: Tensor = state["square"] / (1 - BETAS[1] ** state["step"])
        return mean / (square.sqrt() + EPSILON)


def orthogonalise(matrices: Tensor) -> Tensor:
    """[n, rows, columns] -> the same singular vectors, with singular values between 0.7 and 1.2.

    Newton-Schulz iteration, which is made of products of matrices alone: x -> p(x x') x with
    p(s) = a + b s + c s^2. Values under 0.002 of the matrix's norm stay smaller. Kernels are much
    wider than high, so the iteration goes on in s, which is square and small, and what x would
    have been multiplied by is gathered: a third of the time for HRNet's kernels.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.transpose(1, 2) if tall else matrices
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=1e-12)
    a, b, c = COEFFICIENTS
    square = x @ x.transpose(1, 2)
    one = torch.eye(x.shape[1], dtype=x.dtype, device=x.device).expand_as(square)
    factor = one
    for _ in range(ITERATIONS):
        p = a * one + b * square + c * square @ square
        factor = p @ factor
        # (p x)(p x)', where p is symmetric.
        square = p @ square @ p
    answer: Tensor = factor @ x
    return answer.transpose(1, 2) if tall else answer
