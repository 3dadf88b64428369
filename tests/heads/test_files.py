"""Files stand there whole or not at all."""

from pathlib import Path
from typing import Any

import pytest

from heads.files import write_whole


def test_a_file_is_written_with_its_folder_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    write_whole(path, b"first")
    write_whole(path, b"second")
    assert path.read_bytes() == b"second"
    path.chmod(0o600)
    write_whole(path, b"third")
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(path.parent.iterdir()) == [path]
    long = path.with_name("n" * 255)
    write_whole(long, b"")
    assert long.exists()


def test_what_fails_on_the_way_leaves_the_file_before(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, b"before")
    content: Any = "no bytes"
    with pytest.raises(TypeError):
        write_whole(path, content)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]
