"""From a batch of RGB crops to a network's maps: one class a backend.

TorchRuntime     a network of `heads.build`; the reference, and the one for CUDA
OpenVinoRuntime  an exported file, on the CPU; the fastest
OnnxRuntime      the same file, on the CPU; smaller, and on more kinds of machines
"""

import contextlib
import importlib
import logging
import queue
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from heads import openvino_core
from heads.errors import CheckpointError
from heads.files import alone_in
from heads.onnx_file import INPUT, OUTPUT
from heads.spec import NetworkSpec
from service.errors import InvalidParameter, RuntimeMissing

if TYPE_CHECKING:
    import torch

    from heads.network import Network

log = logging.getLogger("hrpose")

Batch = npt.NDArray[np.uint8]
"""RGB uint8 [N, H, W, 3]."""

Maps = dict[str, npt.NDArray[np.float32]]
"""Name -> float32 [N, ...]; a network that answers one array has the one name `output`."""

Precision = Literal["exact", "fast"]
"""exact: 32-bit floats, as torch has them.  fast: bfloat16, where runtime and processor have it."""


PAIRED_PIXELS = 192 * 128
"""Crops of at most so many pixels run in pairs: alone, their coarse maps keep no core busy."""


class Runtime(Protocol):
    """Runs one network. Normalisation is inside; no crop's maps depend on the other crops."""

    @property
    def streams(self) -> int:
        """So many threads may call `run` at once, each an image on cores of its own; torch: one."""

    @property
    def words(self) -> str:
        """Its name and precision, as people are told."""

    def run(self, batch: Batch) -> Maps:
        """RGB uint8 [N, H, W, 3] -> maps, each [N, ...] float32."""
        ...


class TorchRuntime:
    """PyTorch: float32 and channels_last on the CPU; autocast and pinned copies on CUDA.

    fold: batch norms are folded into convolutions, which on the CPU saves a quarter of the time.
    """

    streams = 1

    def __init__(
        self, network: "Network", spec: NetworkSpec, device: str = "cpu", *, fold: bool = True
    ) -> None:
        import torch

        from heads.fold import folded

        self._torch = torch
        self._spec = spec
        self._device = usable_device(device)
        cuda = self._device.type == "cuda"
        self.words = "torch fast" if cuda else "torch exact"
        module = folded(network.eval()) if fold and not cuda else network.eval()
        self._network = module.to(self._device).to(memory_format=torch.channels_last)

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


class OpenVinoRuntime:
    """OpenVINO on the CPU: `streams` images at once, each by `threads_per_image`.

    file: an ONNX file of ours.  cache: where OpenVINO may keep what it compiled.
    only: names of the maps that are answered; what leads to no other is not computed.
    images_at_once: of a batch, so many are computed together.
    """

    def __init__(
        self,
        file: Path,
        *,
        precision: Precision = "exact",
        streams: int = 1,
        threads_per_image: int = 1,
        cache: Path | None = None,
        only: Collection[str] | None = None,
    ) -> None:
        with _needs("openvino", "openvino"):
            core = openvino_core.core()
        if precision == "fast" and not has_bfloat16():
            log.warning("this processor has no bfloat16; %s runs exact", file.name)
            precision = "exact"
        options = {
            "PERFORMANCE_HINT": "THROUGHPUT",
            "NUM_STREAMS": streams,
            "INFERENCE_NUM_THREADS": streams * threads_per_image,
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "fast" else "f32",
            # Several networks share the cores; none may hold one.
            "ENABLE_CPU_PINNING": False,
        }
        if cache is not None:
            options["CACHE_DIR"] = str(cache)
        try:
            model = core.read_model(file)
            for result in model.get_results():
                if only is not None and _own_name(result.output(0)) not in only:
                    model.remove_result(result)
            # It writes its files in place; a process that has one mapped would die of it.
            with alone_in(cache):
                compiled = _compiled(core, model, options)
        except RuntimeError as error:  # OpenVINO has no narrower one
            raise _unreadable(file, "OpenVINO", error) from error
        self.streams = streams
        self.images_at_once = max(compiled)
        self.words = f"openvino {precision}"
        self._names = [_own_name(output) for output in compiled[1].outputs]
        self._free: queue.SimpleQueue[dict[int, Any]] = queue.SimpleQueue()
        for _ in range(streams):
            self._free.put({n: each.create_infer_request() for n, each in compiled.items()})

    def run(self, batch: Batch) -> Maps:
        """RGB uint8 [N, H, W, 3] -> maps, each [N, ...] float32."""
        requests = self._free.get()
        try:
            return _in_parts(
                batch,
                self._names,
                self.images_at_once,
                lambda part: _answers(requests[len(part)], part),
            )
        finally:
            self._free.put(requests)


class OnnxRuntime:
    """ONNX Runtime on the CPU, 32-bit: `streams` images at once, each by `threads_per_image`.

    only: names of the maps that are answered.
    """

    words = "onnx exact"

    def __init__(
        self,
        file: Path,
        *,
        streams: int = 1,
        threads_per_image: int = 1,
        only: Collection[str] | None = None,
    ) -> None:
        with _needs("onnxruntime", "onnx"):
            onnxruntime: Any = importlib.import_module("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads_per_image, 1
        # Threads that wait by spinning take the cores from decoding and HTTP.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                str(file), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its errors have no common root but this
            raise _unreadable(file, "ONNX Runtime", error) from error
        self.streams = streams
        names = [output.name for output in self._session.get_outputs()]
        self._names = [name for name in names if only is None or name in only]

    def run(self, batch: Batch) -> Maps:
        """RGB uint8 [N, H, W, 3] -> maps, each [N, ...] float32."""
        return _in_parts(
            batch, self._names, 1, lambda image: self._session.run(self._names, {INPUT: image})
        )


def to_openvino(file: Path) -> list[Path]:
    """Writes an ONNX file of ours in OpenVINO's own form beside it, 32-bit; returns the files."""
    graph, weights = file.with_suffix(".xml"), file.with_suffix(".bin")
    with _needs("openvino", "openvino"):
        openvino, core = openvino_core.openvino(), openvino_core.core()
    openvino.save_model(core.read_model(file), graph, compress_to_fp16=False)
    return [graph, weights]


def has_bfloat16() -> bool:
    """Whether OpenVINO runs `fast` on this processor; RuntimeMissing where it is not installed."""
    with _needs("openvino", "openvino"):
        core = openvino_core.core()
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def is_out_of_memory(error: BaseException) -> bool:
    """True where a smaller batch may run; torch is not imported to find out."""
    torch = sys.modules.get("torch")
    return isinstance(error, MemoryError) or (
        torch is not None and isinstance(error, torch.OutOfMemoryError)
    )


def usable_device(name: str) -> "torch.device":
    """The device of that name; InvalidParameter where torch has none here."""
    import torch

    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch has no narrower ones
        reason = str(error).strip().partition("\n")[0]
        raise InvalidParameter("device", f"device {name} cannot be used: {reason}") from error
    return device


def use_threads(count: int) -> int:
    """Sets how many CPU threads torch computes with, 0 for one a core; returns the number."""
    import torch

    if count > 0:
        torch.set_num_threads(count)
    return torch.get_num_threads()


def _in_parts(
    batch: Batch,
    names: Sequence[str],
    most: int,
    run: Callable[[Batch], Sequence[npt.NDArray[np.float32]]],
) -> Maps:
    """Maps of a batch, `most` images at once and what is left one by one.

    On one core a batch is no faster than its images, but for small ones.
    """
    batch = np.ascontiguousarray(batch)  # OpenVINO reads the memory as it lies
    maps: Maps = {}
    start = 0
    while start < len(batch):
        count = most if start + most <= len(batch) else 1
        end = start + count
        for name, values in zip(names, run(batch[start:end]), strict=True):
            if name not in maps:
                maps[name] = np.empty((len(batch), *values.shape[1:]), np.float32)
            maps[name][start:end] = values
        start = end
    return maps


def _compiled(core: Any, model: Any, options: dict[str, object]) -> dict[int, Any]:
    """An OpenVINO model made ready, by how many images at once: 1, and 2 where they are small."""
    axes = list(model.input(0).partial_shape)[1:]
    if any(axis.is_dynamic for axis in axes):  # whole images, of any size
        return {1: core.compile_model(model, "CPU", options)}
    height, width, channels = (axis.get_length() for axis in axes)
    made = {}
    for count in (1, 2) if height * width <= PAIRED_PIXELS else (1,):
        # For one shape it is written in better code than for any.
        model.reshape([count, height, width, channels])
        made[count] = core.compile_model(model, "CPU", options)
    return made


def _answers(request: Any, images: Batch) -> Sequence[npt.NDArray[np.float32]]:
    """What an OpenVINO request answers; its next run writes over it."""
    found = request.infer([images], share_inputs=True, share_outputs=True)
    return list(found.values())


def _own_name(output: Any) -> str:
    """The name that the export gave an answer; what the graph calls it inside has slashes."""
    own = sorted(name for name in output.names if "/" not in name)
    return OUTPUT if OUTPUT in own or not own else own[0]


@contextlib.contextmanager
def _needs(package: str, extra: str) -> Iterator[None]:
    """Turns a failed import into RuntimeMissing, which says what to install."""
    try:
        yield
    except ImportError as error:
        raise RuntimeMissing(package, extra) from error


def _unreadable(file: Path, reader: str, error: Exception) -> CheckpointError:
    reason = " ".join(str(error).split())[:300]
    return CheckpointError(f"{reader} cannot read {file.name}: {reason}")
