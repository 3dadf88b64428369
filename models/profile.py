"""What a network costs: parameters, multiply-adds and shapes, layer by layer.

The one counter behind every table of the project. Counted are convolutions, transposed
convolutions and linear layers, one multiply-add for each weight that meets an input value, without
biases, norms, activations and resizing. A transposed convolution counts each input position once
(the official HRNet tool counts each output position, four times as many at stride 2).
"""

from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.errors import ShapeError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class LayerProfile:
    """One call of one layer, for a batch of one image; parameters are the layer's own."""

    name: str
    type: str
    output_shape: Shape
    parameters: int
    multiply_adds: int


@dataclass(frozen=True)
class Profile:
    """Cost of a network for one image of input_size (height, width).

    output_shapes: every tensor it returns, in order, each with the batch axis of 1.
    layers: in the order of their calls; a layer called twice stands there twice, its parameters
        with the first.
    """

    input_size: tuple[int, int]
    parameters: int
    multiply_adds: int
    output_shapes: tuple[Shape, ...]
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
    for name, layer in shapes_only.named_modules():
        if _own_parameters(layer) or not list(layer.children()):
            _watch(name, layer, layers)
    with torch.no_grad():
        output = shapes_only(torch.empty(1, channels, height, width, device="meta"))
    return Profile(
        input_size=input_size,
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        multiply_adds=sum(layer.multiply_adds for layer in layers),
        output_shapes=tuple(tuple(x.shape) for x in _tensors(output)),
        layers=tuple(layers),
    )


def multiply_adds(layer: nn.Module, input: Tensor, output: Tensor) -> int:
    """Of one call of one layer; 0 for what is not counted."""
    if isinstance(layer, nn.Conv2d):  # each output value sees the whole kernel
        return output.numel() * layer.weight[0].numel()
    if isinstance(layer, nn.ConvTranspose2d):  # each input value goes through the whole kernel
        return input.numel() * layer.weight[0].numel()
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


def _watch(name: str, layer: nn.Module, layers: list[LayerProfile]) -> None:
    def note(layer: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        if not isinstance(output, Tensor) or not inputs or not isinstance(inputs[0], Tensor):
            return
        seen = any(row.name == name for row in layers)
        layers.append(
            LayerProfile(
                name=name,
                type=type(layer).__name__,
                output_shape=tuple(output.shape),
                parameters=0 if seen else _own_parameters(layer),
                multiply_adds=multiply_adds(layer, inputs[0], output),
            )
        )

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
