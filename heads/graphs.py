"""Graphs of networks without their tensors: how a checkpoint becomes ONNX without torch.

Beside the embedded checkpoints lie files `<name>.graph.gz`: a line of JSON (what the graph was
written for, and the name and shape of each tensor it needs), then the graph as torch wrote it. A
graph serves every checkpoint of its structure, so also one that was trained anew. Batch norms stand
in it as they are; runtimes fold them. `python -m heads.export --graphs` writes the files.
"""

import gzip
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from heads.checkpoint import load_arrays, read_spec
from heads.onnx_file import add_spec, add_tensors
from heads.spec import NetworkSpec

FOLDER = Path(__file__).parent / "pretrained"
ENDING = ".graph.gz"

PREFIX = "network."
"""What torch puts before a tensor's name, for the network stands inside a module."""

_NOT_STRUCTURE = {"name", "provenance", "threshold", "skeleton", "codec", "padding", "view"}


def assemble(checkpoint: Path) -> bytes | None:
    """An ONNX file of ours; None where no graph fits, so that only torch can write it.

    Raises CheckpointError for a file that is damaged or no checkpoint of ours.
    """
    wanted = structure(read_spec(checkpoint))
    for path in sorted(FOLDER.glob(f"*{ENDING}")):
        head, graph = _read(path, path.stat().st_mtime_ns)
        if head["structure"] != wanted:
            continue
        spec, stored = load_arrays(checkpoint)
        # Counts of batches, which only training reads, are the scalars.
        arrays = {name: array for name, array in stored.items() if array.ndim}
        if {name: list(array.shape) for name, array in arrays.items()} != head["tensors"]:
            continue
        named = {PREFIX + name: array.astype(np.float32) for name, array in arrays.items()}
        return add_spec(add_tensors(graph, named), spec)
    return None


def structure(spec: NetworkSpec) -> dict[str, Any]:
    """The part of a spec that a graph depends on, beside the shapes of tensors."""
    content: dict[str, Any] = json.loads(spec.model_dump_json(exclude=_NOT_STRUCTURE))
    content["classes"] = len(spec.classes)
    return content


def write_graph(path: Path, graph: bytes, spec: NetworkSpec, shapes: dict[str, list[int]]) -> None:
    """Writes a graph without tensors; shapes: of those it needs, by their checkpoint's names."""
    head = json.dumps({"structure": structure(spec), "tensors": shapes}, sort_keys=True)
    # No time in the file, so that the same graph is the same file.
    path.write_bytes(gzip.compress(head.encode() + b"\n" + graph, mtime=0))


@lru_cache
def _read(path: Path, _mtime_ns: int) -> tuple[dict[str, Any], bytes]:
    head, _, graph = gzip.decompress(path.read_bytes()).partition(b"\n")
    return json.loads(head), graph
