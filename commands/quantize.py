"""`hrpose quantize`: a network in 8-bit integers, fitted to photographs."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import numpy.typing as npt
import typer

from commands.console import DetectorOption, can_be_written, files_of, out
from heads.errors import ImageError
from heads.image import Image, photographs, read_image
from service.inference.engine import DEFAULT_DETECTOR

if TYPE_CHECKING:
    from service.inference.loading import Loaded
    from service.inference.runtime import Batch, Maps

MOST = 300
"""Sample crops: more of them change the ranges hardly."""


def quantize(
    name: Annotated[str, typer.Argument(help="A name of `hrpose models` or a checkpoint file.")],
    photos: Annotated[
        Path,
        typer.Option(
            help="Folder of photographs like those to be served; 16 crops at least.",
            exists=True,
            file_okay=False,
        ),
    ],
    target: Annotated[
        Path, typer.Option("--out", help="The .onnx file to write.", callback=can_be_written)
    ],
    detector: DetectorOption = DEFAULT_DETECTOR,
) -> None:
    """Write a network in 8-bit integers: smaller, faster on processors that have them, less exact.

    What it loses differs from network to network, so measure it before you serve it:
    hrpose evaluate --model NAME --model FILE.onnx --runtime openvino ...
    """
    from heads.export import export_onnx
    from heads.load import load
    from heads.quantize import quantize_onnx
    from service.inference.catalogue import DEFAULT, resolve_default

    if target.suffix != ".onnx":
        raise typer.BadParameter(f"{target} should end in .onnx", param_hint="--out")
    files_of([photos])  # Refused before there is work to lose
    network = load(resolve_default() if name == DEFAULT else name)
    with tempfile.TemporaryDirectory() as folder:
        exact = Path(folder) / "exact.onnx"
        export_onnx(network, exact)
        samples = what_it_sees(exact, photos, detector)
        quantize_onnx(exact, samples, target)
        sizes = [file.stat().st_size / 1e6 for file in (exact, target)]
    out.print(
        f"{target}: {sizes[1]:.1f} MB of {sizes[0]:.1f} MB, fitted to {len(samples)} crops",
        highlight=False,
    )


def what_it_sees(
    file: Path, folder: Path, detector: str = DEFAULT_DETECTOR
) -> list[npt.NDArray[np.uint8]]:
    """The crops that a network is fed when it serves the photographs of a folder.

    detector: finds their boxes, for a pose network; `none`: whole photographs.
    """
    from service.inference.estimator import Estimator, LazyNetwork
    from service.inference.loading import Loaded, Loader, choose

    loader = Loader(choose("auto"))
    loaded = loader.load(file)
    watched = _Watched(loaded)
    estimator = Estimator(
        LazyNetwork(file),
        loader=loader,
        loaded=Loaded(loaded.spec, watched),
        detector=detector,
    )
    asked: dict[str, Callable[[Image], object]] = {
        "classify": estimator.classify,
        "segment": estimator.segment,
    }
    ask = asked.get(loaded.spec.task, estimator.predict)
    for path in photographs(folder):
        try:
            ask(read_image(path))
        except ImageError as error:
            out.print(f"left out: {error}", highlight=False)
        if len(watched.seen) >= MOST:
            break
    return watched.seen[:MOST]


class _Watched:
    """A runtime that remembers what it was fed."""

    def __init__(self, loaded: "Loaded") -> None:
        self._runtime = loaded.runtime
        self.streams = loaded.runtime.streams
        self.words = loaded.runtime.words
        self.seen: list[npt.NDArray[np.uint8]] = []

    def run(self, batch: "Batch") -> "Maps":
        """What the runtime answers."""
        self.seen += list(batch.copy())
        return self._runtime.run(batch)
