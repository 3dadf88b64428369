"""Files that stand there whole or not at all, whatever ends the program while it writes."""

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock


@contextlib.contextmanager
def alone_in(folder: Path | None) -> Iterator[None]:
    """One process and thread at a time, of all that ask for the same folder; None asks for none.

    Where there is no folder, or no file can be made, as on a full disk, nobody waits.
    """
    with contextlib.ExitStack() as stack:
        if folder is not None and os.path.isdir(folder):
            with contextlib.suppress(OSError):
                stack.enter_context(FileLock(folder / ".lock"))
        yield


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file at once, in place of one that there is; makes its folder.

    OSError where it cannot be written; the file before stays then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(OSError):  # no file there before, or somebody else's
            shutil.copymode(path, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
