"""What was read of a mapped file is given back, and stays readable."""

import mmap
import re
import sys
from pathlib import Path

import pytest

from service.inference.memory import return_freed, return_read

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
