"""What a file is now, to be seen again: by this a changed one is known without reading it."""

from pathlib import Path

Stamp = tuple[str, int, int, int]
"""Path, device's number of the file, size and time of change: equal for an unchanged file."""


def stamp_of(path: Path) -> Stamp | None:
    """What a file is now; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return str(path), found.st_ino, found.st_size, found.st_mtime_ns
