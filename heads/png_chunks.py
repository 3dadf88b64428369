"""The chunks of a PNG file, looked at before it is decoded (PNG, third edition, section 5)."""

import struct
from collections.abc import Iterator

from heads.errors import ImageError

SIGNATURE = b"\x89PNG\r\n\x1a\n"

MAX_CHUNKS = 100_000
"""A PNG may have so many; encoders put 4 kB and more in each."""

# The first of what is no necessity but changes what a decoder gives: transparency, orientation.
_HEEDED = (b"tRNS", b"eXIf")
_HEAD, _CRC = struct.Struct(">I4s"), 4


def shows_frames(data: bytes) -> bool:
    """Whether a PNG is an animation: one says so before its first pixels."""
    for kind, _, _ in _chunks(data):
        if kind in (b"acTL", b"IDAT"):
            return kind == b"acTL"
    return False


def without_remarks(data: bytes) -> bytes:
    """The file without texts, profiles and the like, which change no pixel of ours.

    libpng writes to the standard error of the process what it finds wrong in each, names from
    the file included, so that whoever sends an image could write lines into a server's log.
    """
    kept, seen, start = [], set(), 0
    for kind, at, end in _chunks(data):
        needed = kind[:1].isupper() or (kind in _HEEDED and kind not in seen)
        seen.add(kind)
        if not needed:
            kept.append(data[start:at])
            start = end
    return b"".join([*kept, data[start:]]) if kept else data


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of each whole chunk."""
    at = len(SIGNATURE)
    for _ in range(MAX_CHUNKS):
        if at + _HEAD.size > len(data):
            return
        length, kind = _HEAD.unpack_from(data, at)
        end = at + _HEAD.size + length + _CRC
        if end > len(data):
            return
        yield kind, at, end
        at = end
    raise ImageError(f"the PNG image has more than {MAX_CHUNKS} chunks")
