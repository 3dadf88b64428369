"""Networks exported once for runtimes that are not torch, and kept in the cache.

A file is named by the network, by where that comes from, and by a hash of its checkpoint, of what
the zoo says of it and of the exporter. So a changed checkpoint gets a new file, and old ones from
the same place are removed. The folder may be emptied at any time: who has a file open reads on.
"""

import contextlib
import hashlib
import importlib.util
import logging
import os
import re
import shutil
import subprocess  # nosec B404 # this Python alone is run, without a shell
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from heads import zoo
from heads.errors import CheckpointError, ExportError
from heads.files import alone_in, write_whole
from heads.graphs import assemble
from heads.onnx_file import EXPORTER, FORMAT, WHILE_STDIN, read_onnx_spec
from models.extras import install

log = logging.getLogger("hrpose")

TIMEOUT_S = 600.0

CANNOT_WRITE = 2
"""What the exporting process answers where the file cannot be written."""


KEPT = 2
"""Exports of one place: the newest, and the one before, which another process may be about to read
and who goes back to an earlier checkpoint finds made."""

STEM = 50
"""Letters of a checkpoint's name in its export's: of up to four bytes each, and 255 are a name."""

COMPILED = "openvino"
"""Beside the exports: the folder of what OpenVINO compiled of them, see `loading`."""

COMPILED_SHARE = 3.0
"""What OpenVINO compiled may take so many times the room of the exports. One file is about as large
as its export; there are several of a network by shape of input, precision and threads."""

OURS = ".safetensors"
CHECKPOINTS = (OURS, ".pth", ".pt", ".tar")


class Exports:
    """ONNX files of networks by name or checkpoint. Thread-safe; several processes may share them.

    Networks of the embedded structures are assembled (see `heads.graphs`); others need torch, so
    another process exports them and the one that serves stays free of it.
    """

    def __init__(self) -> None:
        self._making = threading.Lock()
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
            return _made(self._temporary_folder() / name, source, network)
        except OSError as error:
            raise ExportError(
                f"{name} can be written neither to the cache nor to a temporary folder: "
                f"{error.strerror or error}; set HRPOSE_CACHE to a folder with room"
            ) from error

    def _temporary_folder(self) -> Path:
        with self._making:
            if self._temporary is None:
                self._temporary = Path(tempfile.mkdtemp(prefix="hrpose-"))
                self._remove = weakref.finalize(self, shutil.rmtree, self._temporary, True)
            return self._temporary

    def close(self) -> None:
        """Removes what was made for this object only."""
        self._remove()
        self._temporary = None


def _file_name(source: str | Path, network: str | None) -> str:
    path, known = Path(source), ""
    if path.suffix not in CHECKPOINTS:
        entry = zoo.find(str(source))
        path, known = zoo.locate(entry.name), entry.model_dump_json()
    where = os.path.abspath(path) if not known else source
    place = hashlib.sha256(os.fsencode(f"{where} {network}"))
    about = hashlib.sha256(f"{EXPORTER} {FORMAT} {known} {network}".encode())
    try:
        with path.open("rb") as file:
            about.update(hashlib.file_digest(file, "sha256").digest())
    except OSError as error:
        raise CheckpointError(f"{path.name} cannot be read: {error.strerror}") from error
    stem = re.sub(r"[^\w.-]+", "_", Path(source).stem if not known else str(source))[:STEM]
    return f"{stem}-{place.hexdigest()[:8]}-{about.hexdigest()[:16]}.onnx"


def _made(target: Path, source: str | Path, network: str | None) -> Path:
    """The file, made if it is not there whole. OSError where it cannot be written."""
    if _is_whole(target):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f".{target.name}.lock")):
        if not _is_whole(target):  # another process may have made it while this one waited
            log.info("exporting %s, once for this checkpoint", source)
            _write(target, source, network)
            name = _file_name(source, network)
            if name != target.name:  # it holds what the checkpoint was replaced by meanwhile
                target.unlink(missing_ok=True)
                return _made(target.with_name(name), source, network)
            _make_room(target)
    return target


def _make_room(newest: Path) -> None:
    """Removes earlier exports of the same place, then what was compiled and is longest unused.

    What cannot be removed takes room only: by rights, or because another process was first.
    """
    folder = newest.parent
    with contextlib.suppress(OSError):
        _remove_earlier(newest)
        room = COMPILED_SHARE * sum(path.stat().st_size for path in folder.glob("*.onnx"))
        with alone_in(folder / COMPILED):
            _remove_unused(folder / COMPILED, room)


def _remove_earlier(newest: Path) -> None:
    place = newest.name.rpartition("-")[0]
    ours = re.compile(re.escape(place) + r"-[0-9a-f]{16}\.onnx")
    others = [path for path in newest.parent.glob("*.onnx") if path != newest]
    earlier = [path for path in others if ours.fullmatch(path.name)]
    for path in sorted(earlier, key=_last_used, reverse=True)[KEPT - 1 :]:
        path.unlink(missing_ok=True)
        path.with_name(f".{path.name}.lock").unlink(missing_ok=True)


def _remove_unused(folder: Path, room: float) -> None:
    """Keeps what was used last, as far as there is room; nothing tells what a file belongs to."""
    for path in sorted(folder.glob("*.blob"), key=_last_used, reverse=True):
        room -= path.stat().st_size
        if room < 0:
            path.unlink(missing_ok=True)


def _last_used(path: Path) -> float:
    found = path.stat()
    return max(found.st_atime, found.st_mtime)


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
            f"run in hrpose's folder: {install('torch')}"
        )
    _export(target, source, network)


def _export(target: Path, source: str | Path, network: str | None) -> None:
    """Runs `heads.export` in a process of its own, from where this code lies.

    It ends when this process does: its standard input is a pipe that nobody writes to, which the
    system closes for a killed process too.
    """
    root = str(Path(__file__).resolve().parents[2])
    searched = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    arguments = [WHILE_STDIN, str(source), str(target), *([network] if network else [])]
    held_by_child, held_here = os.pipe()
    try:
        done = subprocess.run(  # nosec B603 # our own module; arguments are the operator's
            # -P: what lies in the folder where the server was started is not imported.
            [sys.executable, "-P", "-m", "heads.export", *arguments],
            env={**os.environ, "PYTHONPATH": searched},
            stdin=held_by_child,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ExportError(f"exporting {source} took more than {TIMEOUT_S:.0f} s") from error
    finally:
        os.close(held_by_child)
        os.close(held_here)
    said = done.stderr.strip().rpartition("\n")[2]
    if done.returncode == CANNOT_WRITE:
        raise OSError(said)
    if done.returncode:
        raise ExportError(f"{source} cannot be exported: {said or f'exit {done.returncode}'}")
