"""Damaged and hostile image files: each is read or refused, soon, and within bounded memory."""

import contextlib
import io
import json
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from heads.errors import ImageError, TooManyPixels
from heads.image import MAX_SCANS, decode_image, encode_image
from tests.conftest import ROOT
from tests.heads.damaged import MAX_PIXELS, picture

COUNT = 20_000
SLOWEST_S = 2.0
PEAK_MIB = 512


def test_twenty_thousand_damaged_images_are_read_or_refused(tmp_path: Path) -> None:
    last = tmp_path / "last"
    command = [sys.executable, "-m", "tests.heads.damaged", "--count", str(COUNT)]
    command += ["--at", str(last)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"ended by {done.returncode}; see {last}\n{done.stderr[-2000:]}"
    found = json.loads(done.stdout)
    assert found["faults"] == []
    assert found["slowest_s"] < SLOWEST_S
    assert found["peak_mib"] < PEAK_MIB
    outcomes = found["outcomes"]
    assert sum(outcomes.values()) == COUNT
    # Both ways are really taken: neither is everything refused, nor everything read.
    assert min(outcomes["read"], outcomes["ImageError"]) > COUNT / 20
    assert outcomes["TooManyPixels"] > 0


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IEND", b"")


def webp_of(width: int, height: int) -> bytes:
    body = (
        b"VP8L" + struct.pack("<I", 5) + b"\x2f" + struct.pack("<I", width - 1 | height - 1 << 14)
    )
    return b"RIFF" + struct.pack("<I", len(body) + 5) + b"WEBP" + body + b"\0"


def bmp_of(width: int, height: int, compression: int) -> bytes:
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, compression, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 1078, 0, 0, 1078) + info + bytes(1024) + b"\xff\x01" * 100


def jpeg_of(width: int, height: int) -> bytes:
    data = bytearray(encode_image(picture(16, 16)))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


@pytest.mark.parametrize(
    "bomb",
    [
        jpeg_of(65_500, 65_500),
        png(100_000, 100_000, chunk(b"IDAT", zlib.compress(bytes(1000)))),
        webp_of(16_383, 16_383),
        bmp_of(60_000, 60_000, 0),
        bmp_of(60_000, 60_000, 1),  # run lengths: two bytes are 255 pixels
    ],
    ids=["jpeg", "png", "webp", "bmp", "bmp-rle"],
)
def test_a_decompression_bomb_of_each_format_is_refused_by_its_header(bomb: bytes) -> None:
    start = time.process_time()
    with pytest.raises(TooManyPixels):
        decode_image(bomb, MAX_PIXELS)
    assert time.process_time() - start < 0.1


def test_text_in_a_png_that_unfolds_to_a_gigabyte_takes_no_memory(tmp_path: Path) -> None:
    packed = zlib.compressobj(9)
    text = b"".join(packed.compress(bytes(2**20)) for _ in range(1024)) + packed.flush()
    rows = zlib.compress(bytes((1 + 3 * 8) * 8))
    file = tmp_path / "text.png"
    file.write_bytes(png(8, 8, chunk(b"zTXt", b"a\0\0" + text), chunk(b"IDAT", rows)))
    code = (
        "import sys; from pathlib import Path; from heads.image import decode_image\n"
        "from tests.heads.damaged import peak_kib\n"
        "before = peak_kib()\n"
        "assert decode_image(Path(sys.argv[1]).read_bytes()).shape == (8, 8, 3)\n"
        "print(peak_kib() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, file], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 32 * 1024


def progressive(extra_scans: int) -> bytes:
    """A JPEG whose last scan is repeated: every scan makes the decoder pass over all pixels."""
    file = io.BytesIO()
    Pillow.fromarray(picture(48, 64)).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    return data[:-2] + data[data.rindex(b"\xff\xda") : -2] * extra_scans + data[-2:]


def test_a_jpeg_that_scans_without_end_is_refused_before_it_is_decoded() -> None:
    assert decode_image(progressive(0)).shape == (48, 64, 3)
    with pytest.raises(ImageError, match=f"scans; {MAX_SCANS} are read"):
        decode_image(progressive(1_000))


@pytest.mark.parametrize("part", [b"\xff\xfe\0\2", b"\xff\xd0", b"\xff", b"\0"])
@pytest.mark.parametrize("where", [2, -2])
def test_megabytes_of_nothing_in_a_jpeg_are_soon_walked(part: bytes, where: int) -> None:
    """Comments without words, restarts, fill bytes and rubbish, before the image and behind it."""
    data = encode_image(picture(48, 64))
    data = data[:where] + part * (2**24 // len(part)) + data[where:]
    start = time.process_time()
    with contextlib.suppress(ImageError):
        assert decode_image(data).shape == (48, 64, 3)
    assert time.process_time() - start < SLOWEST_S


def test_an_end_hidden_in_a_comment_does_not_end_the_count_of_scans() -> None:
    data = progressive(0)
    comment = b"\xff\xfe" + struct.pack(">H", 4) + b"\xff\xd9"
    scan = data[data.rindex(b"\xff\xda") : -2]
    with pytest.raises(ImageError, match="scans"):
        decode_image(data[:-2] + comment + scan * 200 + data[-2:])


def test_what_lies_behind_a_jpeg_is_not_counted_as_its_scans() -> None:
    """Telephones put films and second pictures there."""
    assert decode_image(progressive(0) + b"\xff\xda\x00\x02" * 1000).shape == (48, 64, 3)


def test_a_thumbnail_is_not_counted_as_scans() -> None:
    data = encode_image(picture(48, 64))
    thumbnail = b"Exif\0\0" + b"\xff\xda\x00\x02" * 1000
    segment = b"\xff\xe1" + struct.pack(">H", 2 + len(thumbnail)) + thumbnail
    assert np.array_equal(decode_image(data[:2] + segment + data[2:]), decode_image(data))
