"""How many cores this process may use: what the system lets it run on, and what a container may."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
"""Where a container sees its own limits."""


def cores(cgroup: Path = CGROUP) -> int:
    """At least one. A quota of `docker run --cpus 1.5` counts as two cores."""
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # other systems than Linux
        allowed = os.cpu_count() or 1
    return max(1, min([allowed, *map(math.ceil, _quotas(cgroup))]))


def _quotas(cgroup: Path) -> Iterator[float]:
    """Cores' worth of time that control groups grant, of either version; none where no limit is."""
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            words = " ".join((cgroup / file).read_text(encoding="ascii") for file in files).split()
            quota, period = (float(word) for word in words)
        except (OSError, ValueError):  # no such file, or "max": no limit
            continue
        if quota > 0 and period > 0:  # -1 is none
            yield quota / period
