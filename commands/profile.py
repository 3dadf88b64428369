"""`hrpose profile`: what a network costs, layer by layer, and how long it takes here."""

import dataclasses
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from commands.console import JsonOption, out, parse_size, spare_inputs, write_json
from service.inference.catalogue import DEFAULT, resolve_default
from service.inference.exports import CHECKPOINTS
from service.inference.loading import EXPORTED

if TYPE_CHECKING:
    from torch import nn

    from heads.geometry import Size
    from models.profile import LayerProfile, Profile

POSE_INPUT = (256, 192)
FILES = (*CHECKPOINTS, EXPORTED)
"""Endings that no backbone's name has."""

MEASURED_S = 1.0
"""A network runs at least so long, and five times, before its median time is told."""


def profile(
    name: Annotated[
        str,
        typer.Argument(
            help="A backbone, <backbone>+<head>, a name of `hrpose models` or a checkpoint file."
        ),
    ],
    head: Annotated[
        Literal["pose", "segment", "classify"] | None,
        typer.Option(help="With the usual head for that; without it the backbone alone."),
    ] = None,
    input_size: Annotated[
        str | None, typer.Option("--input", help="HEIGHTxWIDTH; default: what the head is used at.")
    ] = None,
    layers: Annotated[bool, typer.Option(help="Show every layer.")] = True,
    json_file: JsonOption = None,
) -> None:
    """Tell parameters, multiply-adds, memory and measured time of a network."""
    from models.profile import profile as measure

    spare_inputs([name], json_file)
    if name == DEFAULT and head is None:
        name = resolve_default()
    network = name if head is None else f"{name}+{_head_for(name, head)}"
    module, usual_size, weights = _network(network)
    size = usual_size if input_size is None else parse_size(input_size)
    costs = measure(module, size)
    milliseconds, threads = _milliseconds(module, size)
    if layers:
        out.print(_table(costs.layers))
    out.print(
        f"{network} at {size[0]}x{size[1]}: {costs.parameters:,} parameters, "
        f"{costs.multiply_adds / 1e9:.3f} G multiply-adds;\n"
        f"{_mb(costs.bytes_read)} MB read, {_mb(costs.bytes_written)} MB written, "
        f"at most {_mb(costs.peak_activation_bytes)} MB of maps held at once (32-bit);\n"
        f"{milliseconds:.1f} ms an image on this machine "
        f"(torch, 32-bit, {threads} threads, {weights} weights, median)",
        highlight=False,
    )
    write_json(json_file, _json(network, costs, milliseconds, threads))


def _network(name: str) -> "tuple[nn.Module, Size, str]":
    """The module, the input that it is used at, and what kind of weights it has.

    A backbone goes before a trained network of the same name.
    """
    from heads import zoo
    from heads.load import load
    from heads.network import build
    from heads.spec import default_spec
    from models.backbone import create_backbone, list_backbones

    file = Path(name).is_file() or Path(name).suffix in FILES
    if "+" in name and not file:
        spec = default_spec(name)
        return build(spec), spec.input_size, "random"
    if not file and (name in list_backbones() or name not in zoo.names()):
        return create_backbone(name), POSE_INPUT, "random"
    network = load(name)
    return network, network.spec.input_size, "its own"


def _head_for(name: str, task: str) -> str:
    from heads import zoo
    from models.backbone import list_backbones

    if name in zoo.names() and name not in list_backbones():
        raise typer.BadParameter(f"{name} has a head of its own", param_hint="--head")
    return usual_head(name, task)


def usual_head(backbone: str, task: str) -> str:
    """HRNet needs a 1x1 convolution only; others are brought up from stride 32 where they have it.

    Simple also where there is no stride 32 to start from.
    """
    from models.backbone import facts

    if task != "pose":
        return task
    upwards = 32 in facts(backbone).strides and not backbone.startswith("hrnet")
    return "deconv" if upwards else "simple"


def _milliseconds(module: "nn.Module", size: tuple[int, int]) -> tuple[float, int]:
    """Median time of one image, and the number of threads that worked on it."""
    import torch

    module = module.eval().to(memory_format=torch.channels_last)
    x = torch.zeros(1, 3, *size).contiguous(memory_format=torch.channels_last)
    times: list[float] = []
    with torch.inference_mode():
        module(x)
        while len(times) < 5 or sum(times) < MEASURED_S:
            start = time.perf_counter()
            module(x)
            times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times), torch.get_num_threads()


def _table(layers: "tuple[LayerProfile, ...]") -> Table:
    columns = ("layer", "type", "output", "parameters", "multiply-adds", "MB read", "MB written")
    table = Table(*columns, box=None)
    for row in layers:
        table.add_row(
            row.name,
            row.type,
            "x".join(map(str, row.output_shape)),
            f"{row.parameters:,}",
            f"{row.multiply_adds:,}",
            _mb(row.bytes_read),
            _mb(row.bytes_written),
        )
    return table


def _mb(count: int) -> str:
    return f"{count / 1e6:.2f}"


def _json(name: str, costs: "Profile", milliseconds: float, threads: int) -> dict[str, Any]:
    return {
        "name": name,
        **dataclasses.asdict(costs),
        "milliseconds": milliseconds,
        "threads": threads,
    }
