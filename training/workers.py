"""Several processes that train one network: on the GPUs of a machine, or of many (torchrun).

    torchrun --nproc-per-node 2 -m training recipes/NAME.toml --data DIR

Every process holds the network and sees its own share of each batch; gradients are averaged before
each step, so that N processes with batch B do what one does with N x B (but for the batch norms,
whose means are of B samples each, and for losses that divide by what a batch holds of people or
labelled pixels). The first process alone validates, logs and writes files.
"""

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from training.errors import WorkersError

PATIENCE = timedelta(hours=12)
"""So long the others wait for the first process, which validates alone."""


@dataclass(frozen=True)
class Workers:
    """This process among those of the run.

    rank: 0 is the first.  device: of this process.
    """

    rank: int
    count: int
    device: torch.device

    @classmethod
    def join(cls, device: str) -> "Workers":
        """Meets the other processes that torchrun started; alone where it started none.

        device: `cpu`, `cuda`, or alone `cuda:1`; of several processes each takes the GPU of its
        local rank. Raises WorkersError where they cannot meet.
        """
        count, chosen = int(os.environ.get("WORLD_SIZE", "1")), torch.device(device)
        if count > 1 and chosen.index is not None:
            raise WorkersError(
                f"{count} processes cannot share {device}; with optimisation.device = "
                f'"{chosen.type}" each takes the GPU of its own'
            )
        if count > 1 and chosen.type == "cuda":
            chosen = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
            raise WorkersError(
                f"there is no {chosen} here, CUDA sees {torch.cuda.device_count()} GPUs; on a "
                "processor: --set optimisation.device=cpu"
            )
        if chosen.index is not None:
            torch.cuda.set_device(chosen)
        if count == 1:
            return cls(0, 1, chosen)
        try:
            backend = "gloo" if chosen.type == "cpu" else "nccl"
            distributed.init_process_group(backend, timeout=PATIENCE)
        except (RuntimeError, ValueError) as error:
            raise WorkersError(f"the {count} processes of the run cannot meet: {error}") from error
        return cls(distributed.get_rank(), count, chosen)

    def wait(self) -> None:
        """Until all processes are here: none takes its end of a connection away from another."""
        if self.count > 1:
            distributed.barrier()

    def leave(self) -> None:
        """Ends the meeting."""
        if self.count > 1:
            distributed.destroy_process_group()

    @property
    def first(self) -> bool:
        """Whether this process validates, logs and writes."""
        return self.rank == 0

    def share(self, network: nn.Module) -> nn.Module:
        """The network to call in training: its gradients are the mean over all processes."""
        if self.count == 1:
            return network
        devices = None if self.device.type == "cpu" else [self.device.index]
        for parameter in network.parameters():
            if parameter.shape[2:] == (1, 1):
                # A 1x1 kernel lies alike in both memory formats, but where its strides are said to
                # be those of channels_last, gradients of its parts (heads.necks.MixConv2d) differ
                # in them, and DistributedDataParallel warns and copies.
                parameter.data = parameter.data.flatten().view(parameter.shape)
        idle = any(getattr(part, "may_have_idle_layers", False) for part in network.modules())
        return DistributedDataParallel(network, devices, find_unused_parameters=idle)

    def apart(self, shared: nn.Module, more: bool) -> AbstractContextManager[None]:
        """Where gradients are not exchanged yet, if more batches follow before the step."""
        if more and isinstance(shared, DistributedDataParallel):
            alone: AbstractContextManager[None] = shared.no_sync()
            return alone
        return nullcontext()

    def mean(self, value: float) -> float:
        """Over all processes."""
        if self.count == 1:
            return value
        total = torch.tensor([value], device=self.device)
        distributed.all_reduce(total)
        return float(total.item()) / self.count

    def agree(self, said: bool) -> bool:
        """What the first process says, in all of them."""
        if self.count == 1:
            return said
        flag = torch.tensor([float(said)], device=self.device)
        distributed.broadcast(flag, src=0)
        return bool(flag.item())

    def must_agree(self, values: Sequence[int]) -> None:
        """Raises WorkersError in all processes unless they say the same, where a run goes on."""
        if self.count == 1:
            return
        mine = torch.tensor(values, device=self.device)
        first = mine.clone()
        distributed.broadcast(first, src=0)
        differs = (mine != first).any().int()
        distributed.all_reduce(differs, distributed.ReduceOp.MAX)
        if differs.item():
            raise WorkersError(
                "the processes would go on from different states; the runs folder must be shared "
                "by all machines"
            )
