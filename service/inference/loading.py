"""With what networks are run, chosen once a process, and networks made ready to run so."""

import importlib.util
import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from heads import zoo
from heads.center_codec import BOX_MAPS
from heads.errors import CheckpointError, ExportError, WeightsMissing
from heads.onnx_file import check_form, read_onnx_spec
from heads.spec import NetworkSpec
from models.extras import install
from service.errors import InvalidParameter, RuntimeMissing
from service.inference.catalogue import is_here
from service.inference.cores import cores
from service.inference.exports import Exports
from service.inference.memory import keep_maps
from service.inference.runtime import (
    OnnxRuntime,
    OpenVinoRuntime,
    Precision,
    Runtime,
    TorchRuntime,
    use_threads,
)

if TYPE_CHECKING:
    from heads.network import Network

log = logging.getLogger("hrpose")

RuntimeName = Literal["openvino", "onnx", "torch"]
RuntimeChoice = Literal["auto", "openvino", "onnx", "torch"]

DEFAULT_PRECISION: Precision = "exact"

PACKAGES: dict[RuntimeName, tuple[str, ...]] = {
    "openvino": ("openvino",),
    "onnx": ("onnxruntime",),
    "torch": ("torch",),
}
"""What each runtime imports; the fastest first."""

EXPORTED = ".onnx"


@dataclass(frozen=True)
class Compute:
    """With what networks are run.

    threads: of the processor, 0 (torch): one a core.  threads_per_image: torch gives all of them to
        each batch, others so many to each image, and run as many images at once as that allows.
    falls_back: what this runtime cannot run is run by torch.
    """

    runtime: RuntimeName
    precision: Precision
    device: str
    threads: int
    falls_back: bool
    threads_per_image: int = 1

    @property
    def streams(self) -> int:
        """So many computations at once suit the device."""
        return 1 if self.runtime == "torch" else max(1, self.threads // self.threads_per_image)


@dataclass(frozen=True)
class Loaded:
    """A network that is ready to run. whole: all its maps are answered."""

    spec: NetworkSpec
    runtime: Runtime
    whole: bool = True


def choose(
    runtime: RuntimeChoice = "auto",
    precision: Precision = DEFAULT_PRECISION,
    device: str = "cpu",
    threads: int = 0,
    threads_per_image: int = 1,
) -> Compute:
    """What is best of what is installed, or what was asked for.

    Raises RuntimeMissing, which says what to install, or InvalidParameter for a runtime that there
    is none of, or a device that it does not have.
    """
    name: RuntimeName
    if runtime == "auto":
        able = (name for name in PACKAGES if not _missing(name))
        name = "torch" if device != "cpu" else next(able, "torch")
    elif runtime in PACKAGES:
        name = runtime
    else:  # of a caller in Python
        raise InvalidParameter(
            "runtime", f"a runtime is auto, {', '.join(PACKAGES)}; got {runtime!r:.40}"
        )
    for package in _missing(name):
        raise RuntimeMissing(package, name)
    if name == "torch":
        return Compute("torch", precision, device, threads, falls_back=False)
    if device != "cpu":
        raise InvalidParameter("runtime", f"{name} runs on the CPU; {device} needs runtime torch")
    threads = threads or cores()
    return Compute(
        name, precision, device, threads, runtime == "auto", min(threads_per_image, threads)
    )


def at_hand() -> RuntimeChoice:
    """torch, which needs no export, where it is installed; otherwise the fastest that is."""
    return "auto" if _missing("torch") else "torch"


class Loader:
    """Makes networks ready to run, as `compute` says. Thread-safe.

    allow_random: builds a `<backbone>+<head>` without weights.
    """

    def __init__(self, compute: Compute, allow_random: bool = False) -> None:
        self.compute = compute
        self._allow_random = allow_random
        self._exports = Exports()
        self._once = threading.Lock()
        self._threads_set = False

    def load(
        self, source: str | Path, network: str | None = None, *, boxes_only: bool = False
    ) -> Loaded:
        """The network of a name, `<backbone>+<head>`, a checkpoint, or a file exported from one.

        network: for public files, what they hold. What is not trained is run by torch: to export
        it would cost more than it is worth. boxes_only: a `people` network need not answer the
        maps of keypoints; torch does all the same. Raises what `heads.load.load` raises, and
        ExportError where another runtime than torch was asked for and cannot have the network.
        """
        path = Path(source)
        check_form(path)
        if path.suffix == EXPORTED:
            return self._exported(path, boxes_only)
        if self.compute.runtime == "torch":
            return self._by_torch(source, network)
        trained = _trained(source)
        if trained is None:
            return self._by_torch(source, network)
        try:
            return self._exported(self._exports.get(trained, network), boxes_only)
        except WeightsMissing:
            if _missing("torch"):  # which the weights would only ask for next
                raise RuntimeMissing("torch", "torch") from None
            raise
        except ExportError as error:
            if not self.compute.falls_back:
                raise
            log.warning("%s; torch runs it instead", error)
        return self._by_torch(source, network)

    def module(self, network: "Network", spec: NetworkSpec | None = None) -> Loaded:
        """A network that is built already; spec: what it is, None takes its own."""
        spec = spec or network.spec
        with self._once:
            if not self._threads_set and self.compute.threads:
                use_threads(self.compute.threads)
            self._threads_set = True
        if self.compute.device == "cpu":
            keep_maps()
        return Loaded(spec, TorchRuntime(network, spec, self.compute.device))

    def close(self) -> None:
        """Removes temporary files."""
        self._exports.close()

    def _by_torch(self, source: str | Path, network: str | None) -> Loaded:
        if _missing("torch"):
            raise RuntimeMissing("torch", "torch")
        from heads.load import load

        return self.module(load(source, network, allow_random=self._allow_random))

    def _exported(self, file: Path, boxes_only: bool) -> Loaded:
        compute = self.compute
        spec = read_onnx_spec(file)
        if compute.runtime == "torch":
            raise CheckpointError(
                f"{file.name} is an exported network, which torch does not run; take another "
                f"runtime: {install('openvino')} in hrpose's folder"
            )
        # OpenVINO knows a file by its path, size and second: only names with a hash are safe.
        folder = compiled_folder()
        only = BOX_MAPS if boxes_only and spec.task == "people" else None
        make: dict[str, Callable[[], Runtime]] = {
            "openvino": lambda: OpenVinoRuntime(
                file,
                precision=compute.precision,
                streams=compute.streams,
                threads_per_image=compute.threads_per_image,
                cache=_writable(folder) if file.parent == folder.parent else None,
                only=only,
            ),
            "onnx": lambda: OnnxRuntime(
                file,
                streams=compute.streams,
                threads_per_image=compute.threads_per_image,
                only=only,
            ),
        }
        return Loaded(spec, make[compute.runtime](), whole=only is None)


def _trained(source: str | Path) -> str | Path | None:
    """The network of the zoo, or file, that a source means; None for a form without weights."""
    form = str(source)
    if "+" not in form or Path(source).is_file():
        return source
    return next((e.name for e in zoo.entries() if e.network == form and is_here(e.name)), None)


def compiled_folder() -> Path:
    """Where OpenVINO keeps what it compiled."""
    return zoo.cache_dir() / "exports" / "openvino"


def _writable(folder: Path) -> Path | None:
    """The folder, made where it is missing; None where nothing can be kept in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


def _missing(runtime: RuntimeName) -> list[str]:
    """Packages that a runtime needs and that are not installed; none is imported for it."""
    return [name for name in PACKAGES[runtime] if importlib.util.find_spec(name) is None]
