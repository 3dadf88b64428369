"""The moving average of a network's weights, which is what a run keeps and is judged by."""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

_Tensors = tuple[Tensor, ...] | list[Tensor]


class Average(AveragedModel):
    """Exponential moving average of all weights and norms' means; `module` is the averaged network.

    decay: how much of itself it keeps at each step, once there have been many: after n steps
        min(decay, (1 + n) / (5 + n)), so that it reaches back over a quarter of them at most. Of a
        short run it would otherwise remember little but the weights that the run began with.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__(network, multi_avg_fn=self._blend, use_buffers=True)
        self._decay = self._kept = decay

    def update_parameters(self, model: nn.Module) -> None:
        """Takes a step's weights in."""
        steps = int(self.n_averaged)  # lies where it can be read without waiting for a GPU
        self._kept = min(self._decay, (1 + steps) / (5 + steps))
        super().update_parameters(model)

    @torch.no_grad()
    def _blend(self, averaged: _Tensors, new: _Tensors, _: Tensor | int) -> None:
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(averaged, new, 1 - self._kept)
        else:  # how many batches a norm has seen
            torch._foreach_copy_(averaged, new)
