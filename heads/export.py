"""A network -> an ONNX file of ours (see `heads.onnx_file`), for runtimes that are not torch.

`python -m heads.export SOURCE FILE` does it in a process of its own, so that a server which runs
the file need not import torch; `python -m heads.export --graphs` writes what needs none at all.
"""

import importlib.util
import os
import sys
import threading
import warnings
from io import BytesIO
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.onnx import TrainingMode

from heads import zoo
from heads.decoder import HeatmapDecoder
from heads.errors import ExportError
from heads.files import write_whole
from heads.fold import without_mixed_norms
from heads.graphs import ENDING, FOLDER, PREFIX, write_graph
from heads.load import load
from heads.network import Network, build, input_tensor
from heads.onnx_file import INPUT, OUTPUT, WHILE_STDIN, add_spec
from heads.spec import NetworkSpec
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
    was_training = network.training
    try:
        graph = _graph(network.eval())
    finally:
        network.train(was_training)
    write_whole(path, add_spec(graph, network.spec))


def export_decoded(network: Network, path: Path) -> None:
    """Writes a plain ONNX file from crops to `keypoints`, float32 [N, K, 3].

    images: RGB uint8 [N, H, W, 3], crops of the network's input size. A keypoint is x and y in
    pixels of the crop and its score, as HeatmapCodec reads them. Raises ExportError for networks
    without heatmaps of one person.
    """
    spec = network.spec
    if spec.task != "pose" or spec.head.kind == "center":
        raise ExportError(
            f"{spec.name} is a {spec.task} network with a {spec.head.kind} head; decoding is "
            "exported for pose networks with heatmaps"
        )
    inner = _Served(without_mixed_norms(network))
    served = nn.Sequential(inner, _First(), HeatmapDecoder(spec.heatmap_codec()))
    write_whole(path, _write(served.eval(), spec, spec.input_size, ["keypoints"], {0: "n"}))


class _First(nn.Module):
    """The one map of a network that answers one."""

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        return maps[0]


def export_graph(network: Network, path: Path) -> None:
    """Writes the graph of a network without its tensors; see `heads.graphs`."""
    import onnx

    copy = build(network.spec).eval()
    # Tensors that are equal would become one in the file.
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in copy.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=noise) + 0.5)
    model = onnx.load_from_string(_graph(copy, whole=False))
    state = {name: tensor for name, tensor in copy.state_dict().items() if tensor.ndim}
    needed = {tensor.name.removeprefix(PREFIX) for tensor in model.graph.initializer}
    if needed != set(state):
        raise ExportError(f"{network.spec.name}: not every tensor stands in the graph by its name")
    del model.graph.initializer[:]
    shapes = {name: list(tensor.shape) for name, tensor in state.items()}
    write_graph(path, model.SerializeToString(), network.spec, shapes)


def _graph(network: Network, *, whole: bool = True) -> bytes:
    """The bytes of an ONNX graph, as torch writes it.

    whole: folded; otherwise every tensor of the network stands in it by its name.
    """
    spec = network.spec
    free_size = spec.task in ("people", "segment")
    size = TRACED_SIZE if free_size else spec.input_size
    with torch.inference_mode():
        maps = network.eval()(input_tensor(spec, torch.zeros(1, *size, 3, dtype=torch.uint8)))
    names = list(maps) if isinstance(maps, dict) else [OUTPUT]
    free = {0: "n"}
    if free_size:
        free |= {1: "height", 2: "width"}
    served = _Served(without_mixed_norms(network) if whole else network)
    return _write(served.eval(), spec, size, names, free, whole=whole)


def _write(
    module: nn.Module,
    spec: NetworkSpec,
    size: tuple[int, int],
    names: list[str],
    free: dict[int, str],
    *,
    whole: bool = True,
) -> bytes:
    """A module from crops to outputs of these names, as torch writes it; free: axes of crops."""
    if importlib.util.find_spec("onnx") is None:
        raise ExportError("exporting needs the package onnx; run: pip install onnx")
    # Two images: tracing may take a one for a constant; small ones where any size will do.
    images = torch.zeros(2, *size, 3, dtype=torch.uint8)
    buffer = BytesIO()
    with warnings.catch_warnings():
        # The exporter by tracing is said to be on its way out, and that checks of shapes become
        # constants. It is 40 times faster than its successor (0.6 s against 27 s for
        # movenet_multipose), folds batch norms as well, and a first start waits for it.
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                module,
                (images,),
                buffer,  # type: ignore[arg-type]  # the exporter by tracing takes one
                dynamo=False,
                do_constant_folding=whole,
                training=TrainingMode.EVAL if whole else TrainingMode.PRESERVE,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=names,
                dynamic_axes={INPUT: free, **{name: {0: "n"} for name in names}},
            )
        except (RuntimeError, TypeError, ValueError) as error:  # torch has no narrower root here
            reason = str(error).strip().partition("\n")[0]
            raise ExportError(f"{spec.name} cannot be written as ONNX: {reason}") from error
    return buffer.getvalue()


def export_graphs() -> None:
    """Writes the graphs of all embedded networks anew."""
    for entry in zoo.entries():
        if entry.embedded:
            export_graph(load(entry.name), FOLDER / f"{entry.name}{ENDING}")


STDIN = 0


def _end_with_stdin() -> None:
    # Not sys.stdin: Python aborts at its end where a thread still reads that.
    while os.read(STDIN, 4096):
        pass
    os._exit(1)  # whatever torch is at; what is not written whole is not there


def main(source: str, target: str = "", network: str | None = None) -> int:
    """Exports what `heads.load.load` takes; 0, or with a line on stderr 1, or 2 if unwritable."""
    torch.set_num_threads(1)
    if source == "--graphs":
        export_graphs()
        return 0
    try:
        export_onnx(load(source, network), Path(target))
    except (HrposeError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2 if isinstance(error, OSError) else 1
    return 0


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if arguments[0] == WHILE_STDIN:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
        arguments = arguments[1:]
    sys.exit(main(*arguments))
