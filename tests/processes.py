"""Server processes of benchmarks and tests: where they may listen, and what they use."""

import os
import socket
import subprocess
import sys
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def environment() -> dict[str, str]:
    """For processes that share a machine: idle threads of OpenMP do not spin."""
    return {**os.environ, "OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"}


def page_faults(steps: str, *words: str, **more: str) -> int:
    """Pages that Python code prints it got from the system, in a process with malloc as it comes.

    Pages of the usual size, whatever the system does for large blocks.  words: for the code.
    """
    small = "import ctypes; ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE\n"
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", small + steps, *words],
        env={**plain, **more}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return int(done.stdout)


def free_port() -> int:
    """A port of this machine that nobody listened on just now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def cpu_seconds(pid: int) -> float:
    """Processor time of a process and everything it started that still runs."""
    return sum(_ticks(one) for one in family(pid)) / TICKS


def rss_mib(pid: int) -> float:
    """Resident memory of a process and everything it started, shared pages counted for each."""
    return sum(_status(one, "VmRSS") for one in family(pid)) / 1024


def threads(pid: int) -> int:
    """Threads of a process."""
    return _status(pid, "Threads")


def open_files(pid: int) -> int:
    """File descriptors of a process."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def family(pid: int) -> list[int]:
    """A process, its children, theirs, and so on."""
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            fields = _stat(int(folder.name))
            if fields:
                parents[int(folder.name)] = int(fields[1])
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def _ticks(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[11]) + int(fields[12]) if fields else 0


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat after the name, which may hold spaces; none for one that ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return []


def _status(pid: int, name: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)
