"""How the allocator of C treats what a process frees; of glibc alone."""

import ctypes
import os
from contextlib import suppress

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h

_OWN = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed() -> None:
    """Keeps what this process frees, for as long as it lives.

    For a process that runs networks by torch, which allocates every map between two layers anew.
    glibc by itself soon gives large blocks back to the system, and the next batch gets the same
    memory page by page, each zeroed and mapped anew. The process then holds the most it ever needed
    at once. Does nothing where malloc is not glibc's, or where the environment tells it what to do.
    """
    if not any(name in os.environ for name in _OWN):
        tell_malloc(_M_MMAP_MAX, 0)
        tell_malloc(_M_TRIM_THRESHOLD, 2**31 - 1)


def tell_malloc(parameter: int, value: int) -> None:
    """mallopt(3); does nothing where there is none."""
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(parameter, value)
