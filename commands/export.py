"""`hrpose export`: a network as a file for ONNX or OpenVINO, held against torch."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table

from commands.console import JsonOption, out, write_json
from models.errors import HrposeError
from service.inference.catalogue import DEFAULT, resolve_default
from service.inference.parity import SURE, Parity, measure
from service.inference.runtime import OnnxRuntime, OpenVinoRuntime, Runtime, to_openvino


def export(
    name: Annotated[str, typer.Argument(help="A name of `hrpose models` or a checkpoint file.")],
    form: Annotated[
        Literal["onnx", "openvino"],
        typer.Option("--format", help="onnx: one file; openvino: an .xml and a .bin."),
    ] = "onnx",
    out_dir: Annotated[Path, typer.Option("--out", help="Folder for the files.")] = Path(),
    photo: Annotated[
        list[Path] | None, typer.Option(help="Photographs to compare on; noise if left out.")
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Write a network for ONNX or OpenVINO and tell how far its answers are from torch's.

    The file reads `images`, RGB bytes [N, height, width, 3], and is served by itself:
    hrpose serve --model FILE.onnx
    """
    from heads.export import export_onnx
    from heads.load import load

    network = load(resolve_default() if name == DEFAULT else name)
    target = out_dir / (re.sub(r"[^\w.+-]+", "_", network.spec.name) + ".onnx")
    export_onnx(network, target)
    written = [target]
    if form == "openvino":
        written = to_openvino(target)
        target.unlink()
    for path in written:
        out.print(f"{path}: {path.stat().st_size / 1e6:.1f} MB", highlight=False)
    rows = measure(network, _runtimes(written[0]), photo or [])
    out.print(_table(rows, bool(photo)))
    write_json(
        json_file,
        {
            "model": network.spec.name,
            "files": [path.name for path in written],
            "parity": [dataclasses.asdict(row) for row in rows],
        },
    )


def _runtimes(file: Path) -> list[Runtime]:
    """Whatever is installed here and reads the file."""
    makers: list[Callable[[], Runtime]] = [
        lambda: OpenVinoRuntime(file, precision="exact"),
        lambda: OpenVinoRuntime(file, precision="fast"),
    ]
    if file.suffix == ".onnx":
        makers.insert(0, lambda: OnnxRuntime(file))
    found: list[Runtime] = []
    for make in makers:
        try:
            runtime = make()
        except HrposeError as error:
            out.print(f"not compared: {error}", highlight=False)
            continue
        if runtime.words not in {other.words for other in found}:
            found.append(runtime)
    return found


def _table(rows: list[Parity], photos: bool) -> Table:
    what = "the photographs" if photos else "noise"
    table = Table(
        "runtime", "inputs", "largest difference", "over the range", "keypoints",
        "farthest, px", f"farthest of score >= {SURE}, px",
        box=None, title=f"Against torch, 32-bit, on {what}",
    )  # fmt: skip
    for row in rows:
        pixels = ["-" if p is None else f"{p:.4f}" for p in (row.pixels, row.sure_pixels)]
        table.add_row(
            row.runtime,
            str(row.inputs),
            f"{row.absolute:.1e}",
            f"{row.relative:.1e}",
            str(row.keypoints),
            *pixels,
        )
    return table
