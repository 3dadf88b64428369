"""A PNG whose pixels are class indices, with a palette: what image viewers and numpy both read.

OpenCV writes no palettes, so the three chunks that such a file needs are written here (W3C PNG,
sections 5 and 11).
"""

import struct
import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_INDEXED = 3  # colour type
_NO_FILTER = 0


def encode_indexed(
    indices: npt.NDArray[np.uint8], palette: Sequence[tuple[int, int, int]]
) -> bytes:
    """An 8-bit indexed PNG of [H, W] indices into at most 256 colours."""
    height, width = indices.shape
    header = struct.pack(">IIBBBBB", width, height, 8, _INDEXED, 0, 0, 0)
    rows = np.pad(indices, ((0, 0), (1, 0)), constant_values=_NO_FILTER)
    return b"".join(
        [
            _SIGNATURE,
            _chunk(b"IHDR", header),
            _chunk(b"PLTE", bytes(part for colour in palette for part in colour)),
            _chunk(b"IDAT", zlib.compress(rows.tobytes(), 6)),
            _chunk(b"IEND", b""),
        ]
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    checked = kind + data
    return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))
