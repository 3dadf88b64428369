"""What a server gives back of its memory, and what it keeps."""

import mmap
import platform
import re
import sys
from pathlib import Path

import pytest

from service.inference.memory import return_freed, return_read
from tests.processes import page_faults

MIB = 2**20

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="how memory is given back is Linux's")


def resident_kib(file: Path) -> int:
    """Of the mappings of a file in this process."""
    maps = Path("/proc/self/smaps").read_text(encoding="utf-8")
    (part,) = re.findall(rf"{re.escape(str(file))}\n(?:\w+: .*\n)*?Rss: +(\d+) kB", maps)
    return int(part)


@LINUX
def test_pages_that_were_read_are_given_back_and_read_again(tmp_path: Path) -> None:
    file = tmp_path / "compiled" / "network.blob"
    file.parent.mkdir()
    content = bytes(range(256)) * (4 * MIB // 256)
    file.write_bytes(content)
    with file.open("rb") as opened:
        mapped = mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE)
        assert mapped[:] == content
        before = resident_kib(file)
        return_read(tmp_path / "another")
        assert resident_kib(file) == before == 4 * 1024
        return_read(file.parent)
        assert resident_kib(file) < before / 4
        assert mapped[:] == content
        mapped.close()


def test_a_folder_that_is_not_there_is_no_error(tmp_path: Path) -> None:
    return_read(tmp_path / "missing")
    return_freed()


MAPS = """
import resource, sys
import numpy as np
from heads.spec import default_spec
from heads.network import build
from service.inference import loading, memory

if "server" in sys.argv:
    memory.hold_little()
if "left" in sys.argv:
    loading.keep_maps = lambda: None
loader = loading.Loader(loading.choose("torch", "cpu", threads=1))
runtime = loader.module(build(default_spec("hrnet_w18_small+simple"))).runtime
crops = np.zeros((4, 256, 192, 3), np.uint8)
for _ in range(3):
    runtime.run(crops)
counts = [resource.getrusage(resource.RUSAGE_SELF).ru_minflt]
for _ in range(3):
    runtime.run(crops)
    counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(min(np.diff(counts)))  # the system may take pages of its own accord
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc is not glibc's")
def test_torch_in_a_server_keeps_the_memory_of_its_maps() -> None:
    given_back = page_faults(MAPS, "server", "left")
    assert given_back > 1000
    assert page_faults(MAPS, "server") < given_back / 20
