"""A network -> an ONNX file of ours (see `heads.onnx_file`), for runtimes that are not torch.

`python -m heads.export SOURCE FILE` does it in a process of its own, so that a server which runs
the file need not import torch.
"""

import importlib.util
import os
import sys
import tempfile
import warnings
from io import BytesIO
from pathlib import Path

import torch
from torch import Tensor, nn

from heads.errors import ExportError
from heads.load import load
from heads.network import Network, input_tensor
from heads.onnx_file import INPUT, OUTPUT, add_spec
from models.errors import HrposeError

OPSET = 17

TRACED_SIZE = (128, 160)


class _Served(nn.Module):
    """From crops as a server has them to maps in a fixed order."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        maps = self.network(input_tensor(self.network.spec, images))
        return tuple(maps.values()) if isinstance(maps, dict) else (maps,)


def export_onnx(network: Network, path: Path) -> None:
    """Writes the network as an ONNX file of ours; whole or not at all.

    Batch norms are folded into convolutions. The number of images is free; their size is the
    spec's, or any whose sides are multiples of 32 where a network sees whole images. Raises
    ExportError where ONNX has no words for the network; OSError where the file cannot be written.
    """
    write_whole(path, add_spec(_graph(network.eval()), network.spec))


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file so that its name never stands for a part of it. OSError if it cannot be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _graph(network: Network) -> bytes:
    """The bytes of an ONNX graph, as torch writes it."""
    if importlib.util.find_spec("onnx") is None:
        raise ExportError("exporting needs the package onnx; run: pip install onnx")
    spec = network.spec
    served = _Served(network).eval()  # a module is born in training mode
    whole = spec.task in ("people", "segment")
    # Two images: tracing may take a one for a constant; small ones where any size will do.
    images = torch.zeros(2, *(TRACED_SIZE if whole else spec.input_size), 3, dtype=torch.uint8)
    with torch.inference_mode():
        maps = network(input_tensor(spec, images))
    names = list(maps) if isinstance(maps, dict) else [OUTPUT]
    free = {0: "n"}
    if whole:
        free |= {1: "height", 2: "width"}
    buffer = BytesIO()
    with warnings.catch_warnings():
        # The exporter by tracing is said to be on its way out, and that checks of shapes become
        # constants. It is 40 times faster than its successor (0.6 s against 27 s for
        # movenet_multipose), folds batch norms as well, and a first start waits for it.
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                served,
                (images,),
                buffer,  # type: ignore[arg-type]  # the exporter by tracing takes one
                dynamo=False,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=names,
                dynamic_axes={INPUT: free, **{name: {0: "n"} for name in names}},
            )
        except (RuntimeError, TypeError, ValueError) as error:  # torch has no narrower root here
            reason = str(error).strip().partition("\n")[0]
            raise ExportError(f"{spec.name} cannot be written as ONNX: {reason}") from error
    return buffer.getvalue()


def main(source: str, target: str, network: str | None = None) -> int:
    """Exports what `heads.load.load` takes; 0, or with a line on stderr 1, or 2 if unwritable."""
    torch.set_num_threads(1)
    try:
        export_onnx(load(source, network), Path(target))
    except (HrposeError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2 if isinstance(error, OSError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
