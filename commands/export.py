"""`hrpose export`: a network as a file for ONNX or OpenVINO, held against torch."""

import contextlib
import dataclasses
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from commands.console import JsonOption, can_be_folder, out, spare_inputs, write_json
from heads.photo import read_photo
from models.errors import HrposeError
from service.errors import RuntimeMissing
from service.inference.catalogue import DEFAULT, resolve_default
from service.inference.decoding import measure_decoded
from service.inference.parity import SURE, Parity, measure
from service.inference.runtime import (
    OnnxRuntime,
    OpenVinoRuntime,
    Runtime,
    has_bfloat16,
    to_openvino,
)

if TYPE_CHECKING:
    from heads.network import Network


def export(
    name: Annotated[str, typer.Argument(help="A name of `hrpose models` or a checkpoint file.")],
    form: Annotated[
        Literal["onnx", "openvino"],
        typer.Option("--format", help="onnx: one file; openvino: an .xml and a .bin."),
    ] = "onnx",
    out_dir: Annotated[
        Path, typer.Option("--out", help="Folder for the files.", callback=can_be_folder)
    ] = Path(),
    photo: Annotated[
        list[Path] | None, typer.Option(help="Photographs to compare on; noise if left out.")
    ] = None,
    decode: Annotated[
        bool,
        typer.Option(
            "--decode", help="Decode in the graph: crops in, keypoints [N, K, 3] out; onnx only."
        ),
    ] = False,
    json_file: JsonOption = None,
) -> None:
    """Write a network for ONNX or OpenVINO and tell how far its answers are from torch's.

    The file reads `images`, RGB bytes [N, height, width, 3], and is served by itself:
    hrpose serve --model FILE.onnx
    """
    from heads.export import export_onnx
    from heads.load import load

    spare_inputs([name, *(photo or [])], json_file)
    for path in photo or []:
        read_photo(path)  # before there is work to lose
    network = load(resolve_default() if name == DEFAULT else name)
    if decode:
        if form != "onnx":
            raise typer.BadParameter("--decode writes ONNX; leave out --format openvino")
        _export_decoded(network, out_dir, photo or [], json_file)
        return
    target = out_dir / (re.sub(r"[^\w.+-]+", "_", network.spec.name) + ".onnx")
    if form == "onnx":
        export_onnx(network, target)
        written = [target]
    else:
        written = _export_openvino(network, target)
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


def _export_openvino(network: "Network", target: Path) -> list[Path]:
    """Made in a folder of its own: an .onnx of an earlier export stays as it is."""
    from heads.export import export_onnx

    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".export-") as folder:
        made = Path(folder) / target.name
        export_onnx(network, made)
        return [path.replace(target.with_name(path.name)) for path in to_openvino(made)]


def _export_decoded(
    network: "Network", out_dir: Path, photos: list[Path], json_file: Path | None
) -> None:
    from heads.export import export_decoded

    target = out_dir / (re.sub(r"[^\w.+-]+", "_", network.spec.name) + ".decoded.onnx")
    export_decoded(network, target)
    out.print(f"{target}: {target.stat().st_size / 1e6:.1f} MB", highlight=False)
    row = measure_decoded(network, target, photos)
    sure = "-" if row.sure_pixels is None else f"{row.sure_pixels:.4f}"
    out.print(
        f"against torch and the codec on {_fed_with(row.noise, bool(photos))}: {row.crops} "
        f"crops, {row.keypoints} keypoints, farthest {row.pixels:.4f} px ({sure} px of score >= "
        f"{SURE}), scores within {row.score:.1e}",
        highlight=False,
    )
    write_json(
        json_file,
        {"model": network.spec.name, "files": [target.name], "decoded": dataclasses.asdict(row)},
    )


def _runtimes(file: Path) -> list[Runtime]:
    """Whatever is installed here and reads the file."""
    makers: list[Callable[[], Runtime]] = [lambda: OpenVinoRuntime(file, precision="exact")]
    with contextlib.suppress(RuntimeMissing):  # which the first of them says
        if has_bfloat16():
            makers.append(lambda: OpenVinoRuntime(file, precision="fast"))
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


def _fed_with(noise: bool, photos: bool) -> str:
    if not noise:
        return "the photographs"
    return "noise, for nobody is found in the photographs" if photos else "noise"


def _table(rows: list[Parity], photos: bool) -> Table:
    what = _fed_with(any(row.noise for row in rows), photos)
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
