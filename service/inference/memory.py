"""Memory that a process holds and does not need: given back to the system."""

import ctypes
from contextlib import suppress
from pathlib import Path

_MADV_PAGEOUT = 21
"""Of Linux's mman.h, since 5.4: the kernel may take these pages now."""


def return_freed() -> None:
    """What the process has freed; glibc by itself keeps it in its heaps."""
    with suppress(OSError, AttributeError, TypeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


def return_read(folder: Path) -> None:
    """What was read of the files in a folder that are mapped into this process.

    OpenVINO maps what it keeps of a compiled network, and copies the weights from there into the
    order in which it reads them: a tenth of a server's memory that nobody looks at again. Who does
    look gets the page from the file. Does nothing but on Linux.
    """
    with suppress(OSError, AttributeError, TypeError):
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
        advise = ctypes.CDLL(None).madvise
        advise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        for line in maps.splitlines():
            addresses, _, _, _, _, *path = line.split(maxsplit=5)
            if path and Path(path[0]).parent == folder:
                start, end = (int(address, 16) for address in addresses.split("-"))
                advise(start, end - start, _MADV_PAGEOUT)
