"""Networks exported once for runtimes that are not torch, and kept in the cache.

A file is named by the network, and by a hash of its checkpoint, of what the zoo says of it and of
the exporter; so a changed checkpoint gets a new file, and the folder may be emptied at any time.
"""

import hashlib
import importlib.util
import logging
import os
import re
import shutil
import subprocess  # nosec B404 # this Python alone is run, without a shell
import sys
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from heads import zoo
from heads.errors import CheckpointError, ExportError
from heads.files import write_whole
from heads.graphs import assemble
from heads.onnx_file import EXPORTER, FORMAT, read_onnx_spec

log = logging.getLogger("hrpose")

TIMEOUT_S = 600.0

CANNOT_WRITE = 2
"""What the exporting process answers where the file cannot be written."""


OURS = ".safetensors"
CHECKPOINTS = (OURS, ".pth", ".pt", ".tar")


class Exports:
    """ONNX files of networks by name or checkpoint. Thread-safe; several processes may share them.

    Networks of the embedded structures are assembled (see `heads.graphs`); others need torch, so
    another process exports them and the one that serves stays free of it.
    """

    def __init__(self) -> None:
        self._temporary: Path | None = None
        self._remove: Callable[[], object] = lambda: None

    def get(self, source: str | Path, network: str | None = None) -> Path:
        """The export of a network of the zoo or of a checkpoint file, made if it is not there.

        network: for public files, what they hold. Where the cache cannot be written to, a
        temporary folder is taken, which lasts as long as this object. Raises WeightsMissing,
        UnknownName, CheckpointError for a file that cannot be read, or ExportError.
        """
        name = _file_name(source, network)
        kept = zoo.cache_dir() / "exports"
        try:
            return _made(kept / name, source, network)
        except OSError as error:
            log.warning(
                "exports cannot be kept in the cache (%s); they are made again at every start",
                error.strerror or error,
            )
        try:
            if self._temporary is None:
                self._temporary = Path(tempfile.mkdtemp(prefix="hrpose-"))
                self._remove = weakref.finalize(self, shutil.rmtree, self._temporary, True)
            return _made(self._temporary / name, source, network)
        except OSError as error:
            raise ExportError(
                f"{name} can be written neither to the cache nor to a temporary folder: "
                f"{error.strerror or error}; set HRPOSE_CACHE to a folder with room"
            ) from error

    def close(self) -> None:
        """Removes what was made for this object only."""
        self._remove()
        self._temporary = None


def _file_name(source: str | Path, network: str | None) -> str:
    path, known = Path(source), ""
    if path.suffix not in CHECKPOINTS:
        entry = zoo.find(str(source))
        path, known = zoo.locate(entry.name), entry.model_dump_json()
    about = hashlib.sha256(f"{EXPORTER} {FORMAT} {known} {network}".encode())
    try:
        with path.open("rb") as file:
            about.update(hashlib.file_digest(file, "sha256").digest())
    except OSError as error:
        raise CheckpointError(f"{path.name} cannot be read: {error.strerror}") from error
    stem = re.sub(r"[^\w.-]+", "_", Path(source).stem if not known else str(source))
    return f"{stem}-{about.hexdigest()[:16]}.onnx"


def _made(target: Path, source: str | Path, network: str | None) -> Path:
    """The file, made if it is not there whole. OSError where it cannot be written."""
    if _is_whole(target):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f".{target.name}.lock")):
        if not _is_whole(target):  # another process may have made it while this one waited
            log.info("exporting %s, once for this checkpoint", source)
            _write(target, source, network)
    return target


def _is_whole(path: Path) -> bool:
    if not os.path.isfile(path):
        return False
    try:
        read_onnx_spec(path)
    except CheckpointError as error:
        log.warning("%s; it is made anew", error)
        return False
    return True


def _write(target: Path, source: str | Path, network: str | None) -> None:
    """From a graph that came along, where one fits; otherwise torch has to write it."""
    path = Path(source)
    path = path if path.suffix in CHECKPOINTS else zoo.locate(str(source))
    file = None
    with_torch = importlib.util.find_spec("torch") is not None
    if path.suffix == OURS and network is None:
        try:
            file = assemble(path)
        except CheckpointError:
            if not with_torch:
                raise
    if file is not None:
        write_whole(target, file)
        return
    if not with_torch:
        raise ExportError(
            f"{path.name} has to be exported once by torch, which is not installed; "
            "run: pip install 'hrpose[torch]'"
        )
    _export(target, source, network)


def _export(target: Path, source: str | Path, network: str | None) -> None:
    """Runs `heads.export` in a process of its own, from where this code lies."""
    root = str(Path(__file__).resolve().parents[2])
    searched = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    arguments = [str(source), str(target), *([network] if network else [])]
    try:
        done = subprocess.run(  # nosec B603 # our own module; arguments are the operator's
            # -P: what lies in the folder where the server was started is not imported.
            [sys.executable, "-P", "-m", "heads.export", *arguments],
            env={**os.environ, "PYTHONPATH": searched},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ExportError(f"exporting {source} took more than {TIMEOUT_S:.0f} s") from error
    said = done.stderr.strip().rpartition("\n")[2]
    if done.returncode == CANNOT_WRITE:
        raise OSError(said)
    if done.returncode:
        raise ExportError(f"{source} cannot be exported: {said or f'exit {done.returncode}'}")
