"""What the commands share: where they print, options that mean the same, files they write."""

import errno
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console

from heads.errors import ImageError
from heads.files import write_whole
from heads.image import photographs
from heads.photo import Photo, read_photo
from models.errors import HrposeError
from service.errors import InvalidParameter

T = TypeVar("T")

# A pipe has no width of its own; rows are not to be cut to 80 columns there.
# Without markup: file names may have brackets.
out = Console(width=None if sys.stdout.isatty() else 160, markup=False, emoji=False)
errors = Console(stderr=True, markup=False, emoji=False, soft_wrap=True)

ModelOption = Annotated[str, typer.Option(help="A name of `hrpose models` or a checkpoint file.")]
DetectorOption = Annotated[
    str, typer.Option(help="The network that finds boxes, by name or file; `none`: whole images.")
]


class Refused(HrposeError):
    """A file that a command cannot write, or must not; the message says which and why."""


def can_be_written(path: Path | None) -> Path | None:
    """The path of an option, before there is work to lose; BadParameter where it is no use."""
    if path is not None:
        there = _nearest(path)
        # A folder on the way to a new file, or the file itself.
        if os.path.isdir(there) == (there == path.absolute()) or not os.access(there, os.W_OK):
            raise typer.BadParameter(f"{path} cannot be written")
    return path


def _nearest(path: Path) -> Path:
    """The path, or the folder on the way to it that is there."""
    way = (path.absolute(), *path.absolute().parents)
    return next(each for each in way if os.path.exists(each))


def can_be_folder(path: Path | None) -> Path | None:
    """The folder of an option, there or not, before there is work to lose; as can_be_written."""
    if path is not None:
        there = _nearest(path)
        if not os.path.isdir(there) or not os.access(there, os.W_OK):
            raise typer.BadParameter(f"{path} is no folder that can be written to")
    return path


JsonOption = Annotated[
    Path | None,
    typer.Option("--json", help="Also write the result here.", callback=can_be_written),
]


PhotosArgument = Annotated[
    list[Path], typer.Argument(help="JPEG, PNG, WebP or BMP files, and folders of them.")
]


def files_of(photos: Sequence[Path]) -> list[Path]:
    """Photographs that were named, those of a folder in its place; Refused for an empty folder."""
    files: list[Path] = []
    for path in photos:
        found = photographs(path) if path.is_dir() else [path]
        if not found:
            raise Refused(f"{path} holds no photograph")
        files += found
    return files


def look_at(files: Sequence[Path], look: Callable[[Path, Photo], None]) -> bool:
    """Calls `look` with each photograph, and tells of one that cannot be read; the others go on.

    As of one that given boxes lie outside of. False where there was such a one.
    """
    all_answered = True
    for path in files:
        try:
            with read_photo(path) as photo:
                look(path, photo)
        except (ImageError, InvalidParameter) as error:
            if isinstance(error, InvalidParameter) and error.parameter != "boxes":
                raise
            all_answered = False
            said = str(error)
            errors.print(said if path.name in said else f"{path.name}: {said}", highlight=False)
    return all_answered


def spare_inputs(inputs: Iterable[Path | str | None], *outputs: Path | None) -> None:
    """Refused where what is to be written would take the place of what is read, or of another.

    inputs: files, and names that may be files.
    """
    taken = {Path(path).resolve() for path in inputs if path is not None and Path(path).exists()}
    for path in filter(None, outputs):
        if path.resolve() in taken:
            raise Refused(f"{path} is a file of this command already; name another one")
        taken.add(path.resolve())


def followed(entries: Sequence[T], name: str) -> Iterable[T]:
    """The entries, with a bar on the terminal that shows how far they are."""
    from rich.progress import track

    return track(entries, name, console=errors, transient=True)


def write_json(path: Path | None, content: dict[str, Any]) -> None:
    """The result of a command as a file, where one is asked for."""
    if path is not None:
        write_file(path, (json.dumps(content, indent=1) + "\n").encode())


def write_file(path: Path, content: bytes) -> None:
    """What a command made; makes the folder. Refused where it cannot be written."""
    try:
        if path.is_symlink() or (path.exists() and not path.is_file()):  # a pipe, /dev/stdout
            path.write_bytes(content)
        else:
            _replace(path, content)
    except OSError as error:
        raise Refused(f"{path} cannot be written: {error.strerror}") from error


def _replace(path: Path, content: bytes) -> None:
    try:
        write_whole(path, content)
    except OSError as error:
        # A file may be writable whose folder is not, and one that a container mounts has no other
        # in its place.
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EBUSY) or not path.is_file():
            raise
        path.write_bytes(content)


def parse_size(text: str) -> tuple[int, int]:
    """`256x192` -> (256, 192), height first."""
    try:
        height, width = (int(side) for side in text.lower().split("x"))
    except ValueError as error:
        raise typer.BadParameter(f"{text} is not HEIGHTxWIDTH") from error
    return height, width
