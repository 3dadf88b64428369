"""From a batch of RGB crops to a network's maps: one class a backend."""

from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from heads.spec import NetworkSpec

if TYPE_CHECKING:
    import torch

Batch = npt.NDArray[np.uint8]
"""RGB uint8 [N, H, W, 3]."""

Maps = dict[str, npt.NDArray[np.float32]]
"""Name -> float32 [N, ...]; a network that answers one array has the one name `output`."""

OUTPUT = "output"


class Runtime(Protocol):
    """Runs one network. Normalisation is inside; called by one thread at a time."""

    def run(self, batch: Batch) -> Maps:
        """RGB uint8 [N, H, W, 3] -> maps, each [N, ...] float32."""
        ...


class TorchRuntime:
    """PyTorch: float32 and channels_last on the CPU, autocast and pinned copies on CUDA."""

    def __init__(self, network: "torch.nn.Module", spec: NetworkSpec, device: str = "cpu") -> None:
        import torch

        self._torch = torch
        self._spec = spec
        self._device = torch.device(device)
        self._network = network.eval().to(self._device).to(memory_format=torch.channels_last)

    def run(self, batch: Batch) -> Maps:
        """RGB uint8 [N, H, W, 3] -> maps, each [N, ...] float32."""
        from heads.network import input_tensor

        torch = self._torch
        images = torch.from_numpy(batch)
        with torch.inference_mode():
            if self._device.type == "cuda":
                images = images.pin_memory().to(self._device, non_blocking=True)
            x = input_tensor(self._spec, images)
            x = x.contiguous(memory_format=torch.channels_last)
            with torch.autocast(self._device.type, enabled=self._device.type == "cuda"):
                answer = self._network(x)
            named = answer if isinstance(answer, dict) else {OUTPUT: answer}
            return {name: tensor.float().cpu().numpy() for name, tensor in named.items()}


def use_threads(count: int) -> int:
    """Sets how many CPU threads torch computes with, 0 for one a core; returns the number."""
    import torch

    if count > 0:
        torch.set_num_threads(count)
    return torch.get_num_threads()
