"""Memory that a process holds and does not need: given back to the system."""

import ctypes
import os
from contextlib import suppress
from pathlib import Path

from models.memory import keep_freed, tell_malloc

_MADV_PAGEOUT = 21
"""Of Linux's mman.h, since 5.4: the kernel may take these pages now."""

ARENAS = 2
"""Heaps of a server; by itself glibc makes eight a core, each keeping what its threads freed."""

LARGE = 256 * 1024
"""Bytes from which on a server's memory is given back when it is freed; by itself glibc soon keeps
32 MiB."""

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # of malloc.h

_holds_little = False


def hold_little() -> None:
    """Keeps a third of the memory free that a busy server would hold, at no cost in time."""
    global _holds_little
    if "MALLOC_ARENA_MAX" not in os.environ:
        tell_malloc(_M_ARENA_MAX, ARENAS)
    if "MALLOC_MMAP_THRESHOLD_" not in os.environ:
        tell_malloc(_M_MMAP_THRESHOLD, LARGE)
        _holds_little = True


def keep_maps() -> None:
    """Undoes half of `hold_little`, where there is any: in this server torch runs networks.

    Their maps, given back each time, were half of its processor time (docs/performance.md).
    """
    if _holds_little:
        keep_freed()


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
