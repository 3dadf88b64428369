"""Files that stand there whole or not at all, whatever ends the program while it writes."""

import contextlib
import os
import shutil
import uuid
from pathlib import Path


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
