"""Several processes that train one network: on the GPUs of a machine, or of many (torchrun).

    torchrun --nproc-per-node 2 -m training recipes/NAME.toml --data DIR

Every process holds the network and sees its own share of each batch; gradients are averaged before
each step, so that N processes with batch B do what one does with N x B (but for the batch norms,
whose means are of B samples each). The first process alone validates, logs and writes files.
"""

import os
from dataclasses import dataclass

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from training.errors import WorkersError


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

        device: `cpu` or `cuda`; of several GPUs each process takes the one of its local rank.
        Raises WorkersError where they cannot meet.
        """
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count == 1:
            return cls(0, 1, torch.device(device))
        if device == "cuda":
            chosen = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(chosen)
        else:
            chosen = torch.device(device)
        try:
            distributed.init_process_group("gloo" if chosen.type == "cpu" else "nccl")
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
        return DistributedDataParallel(network, device_ids=devices)

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
