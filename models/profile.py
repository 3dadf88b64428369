"""What a network costs: parameters, multiply-adds, shapes and memory, layer by layer.

The one counter behind every table of the project. Counted are convolutions, transposed
convolutions and linear layers, one multiply-add for each weight that meets an input value, without
biases, norms, activations and resizing. A transposed convolution counts each input position once
(the official HRNet tool counts each output position, four times as many at stride 2).

Memory is that of 32-bit numbers, as PyTorch computes layer by layer: each operation reads all its
inputs and weights and writes its results; nothing is fused and nothing stays in a cache.
"""

from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from models.blocks import MixConv2d
from models.errors import ShapeError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class LayerProfile:
    """One call of one layer, for a batch of one image; parameters are the layer's own.

    bytes_read, bytes_written: by all that the layer does.
    """

    name: str
    type: str
    output_shape: Shape
    parameters: int
    multiply_adds: int
    bytes_read: int
    bytes_written: int


@dataclass(frozen=True)
class Profile:
    """Cost of a network for one image of input_size (height, width).

    output_shapes: every tensor it returns, in order, each with the batch axis of 1.
    bytes_read, bytes_written: by all operations, those between the layers too.
    peak_activation_bytes: the most that is held at once of the input and of all results, without
        weights and without what a kernel needs for itself.
    layers: in the order of their calls; a layer called twice stands there twice, its parameters
        with the first.
    """

    input_size: tuple[int, int]
    parameters: int
    multiply_adds: int
    output_shapes: tuple[Shape, ...]
    bytes_read: int
    bytes_written: int
    peak_activation_bytes: int
    layers: tuple[LayerProfile, ...]


def profile(module: nn.Module, input_size: tuple[int, int], channels: int = 3) -> Profile:
    """Measure a module that takes [1, channels, height, width].

    Nothing is computed: a copy of the module runs on shapes alone, in evaluation mode.
    """
    height, width = input_size
    if height < 1 or width < 1:
        raise ShapeError(f"input_size is (height, width) in pixels, got {input_size}")
    shapes_only = _without_numbers(module).eval()
    layers: list[LayerProfile] = []
    image = torch.empty(1, channels, height, width, device="meta")
    memory = _Memory(image)
    for name, layer in shapes_only.named_modules():
        if _own_parameters(layer) or not list(layer.children()):
            _watch(name, layer, layers, memory)
    with torch.no_grad(), memory:
        output = shapes_only(image)
    return Profile(
        input_size=input_size,
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        multiply_adds=sum(layer.multiply_adds for layer in layers),
        output_shapes=tuple(tuple(x.shape) for x in _tensors(output)),
        bytes_read=memory.read,
        bytes_written=memory.written,
        peak_activation_bytes=memory.peak,
        layers=tuple(layers),
    )


def multiply_adds(layer: nn.Module, inputs: Sequence[Tensor], output: Tensor) -> int:
    """Of one call of one layer; 0 for what is not counted."""
    if isinstance(layer, MixConv2d):  # each map meets its share of the weights at its own size
        return sum(x.numel() for x in inputs) * layer.out_channels
    if isinstance(layer, nn.Conv2d):  # each output value sees the whole kernel
        return output.numel() * layer.weight[0].numel()
    if isinstance(layer, nn.ConvTranspose2d):  # each input value goes through the whole kernel
        return inputs[0].numel() * layer.weight[0].numel()
    if isinstance(layer, nn.Linear):
        return output.numel() * layer.in_features
    return 0


def _without_numbers(module: nn.Module) -> nn.Module:
    """A copy of a module on the meta device; its numbers are never copied."""
    copies: dict[int, object] = {
        id(parameter): nn.Parameter(parameter.detach().to("meta"), requires_grad=False)
        for parameter in module.parameters()
    }
    copies |= {id(buffer): buffer.to("meta") for buffer in module.buffers()}
    return deepcopy(module, copies)


class _Memory(TorchDispatchMode):
    """Sees every operation and adds up what it reads, writes and leaves alive."""

    def __init__(self, image: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.read = 0
        self.written = 0
        self.peak = 0
        self._alive: list[tuple[StorageWeakRef, int]] = []
        self._hold([image])

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        del types
        result = func(*args, **(kwargs or {}))
        returned = result if isinstance(result, tuple | list) else (result,)
        aliases = [part.alias_info for part in func._schema.returns]
        if len(aliases) == 1:  # a list of tensors is one value
            aliases *= len(returned)
        made = [
            value
            for value, alias in zip(returned, aliases, strict=True)
            if isinstance(value, Tensor) and (alias is None or alias.is_write)
        ]
        if made:  # a view moves nothing
            self.read += sum(_bytes(x) for x in _tensors([*args, *(kwargs or {}).values()]))
            self.written += sum(_bytes(x) for x in made)
        self._hold(
            value
            for value, alias in zip(returned, aliases, strict=True)
            if isinstance(value, Tensor) and alias is None
        )
        return result

    def _hold(self, made: Iterable[Tensor]) -> None:
        """Counts new results as alive, and those no longer that nobody holds."""
        self._alive += [(StorageWeakRef(x.untyped_storage()), _bytes(x)) for x in made]
        self._alive = [(ref, size) for ref, size in self._alive if not ref.expired()]
        self.peak = max(self.peak, sum(size for _, size in self._alive))


def _bytes(x: Tensor) -> int:
    return x.numel() * x.element_size()


def _watch(name: str, layer: nn.Module, layers: list[LayerProfile], memory: _Memory) -> None:
    before = (0, 0)

    def start(_layer: nn.Module, _inputs: tuple[object, ...]) -> None:
        nonlocal before
        before = (memory.read, memory.written)

    def note(layer: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        read = _tensors(inputs)
        if not isinstance(output, Tensor) or not read:
            return
        seen = any(row.name == name for row in layers)
        layers.append(
            LayerProfile(
                name=name,
                type=type(layer).__name__,
                output_shape=tuple(output.shape),
                parameters=0 if seen else _own_parameters(layer),
                multiply_adds=multiply_adds(layer, read, output),
                bytes_read=memory.read - before[0],
                bytes_written=memory.written - before[1],
            )
        )

    layer.register_forward_pre_hook(start)
    layer.register_forward_hook(note)


def _own_parameters(layer: nn.Module) -> int:
    return sum(parameter.numel() for parameter in layer.parameters(recurse=False))


def _tensors(output: object) -> list[Tensor]:
    """Every tensor of a result: a tensor, or lists, tuples and dicts of them."""
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, dict):
        output = list(output.values())
    if isinstance(output, list | tuple):
        return [x for part in output for x in _tensors(part)]
    return []
