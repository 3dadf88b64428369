"""Images damaged in every way, by the thousand: `python -m tests.heads.damaged --count 20000`.

Sound files of every format that is read are cut, overwritten, spliced and given absurd numbers,
always the same ones for the same seed. Each goes through `decode_image` in this process, which the
kernel keeps from taking more memory than MEMORY_MIB; the file at work lies in --at, so that a crash
leaves what caused it. Prints one line of JSON.
"""

import argparse
import io
import json
import random
import resource
import struct
import sys
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow

from heads.errors import ImageError
from heads.image import ImageFormat, decode_image, encode_image

MAX_PIXELS = 50_000_000
"""The server's own limit, so a damaged size may be a large one."""

MEMORY_MIB = 1024
"""Above the packages: 50 megapixels are 150 MB, and decoding holds them twice."""

ABSURD = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def picture(height: int, width: int) -> npt.NDArray[np.uint8]:
    """Colours, edges and noise, so that coders use all they have."""
    rng = np.random.default_rng(height * width)
    image = rng.integers(0, 60, (height, width, 3), np.uint8)
    image += np.linspace(0, 120, width, dtype=np.uint8)[None, :, None]
    image[height // 3 : height // 2, width // 4 :] = (200, 30, 60)
    return image


def seeds() -> list[bytes]:
    """Sound files: every format, and every kind of each that cameras and programs write."""
    files: list[bytes] = []
    for size in ((16, 16), (61, 83)):
        image = picture(*size)
        formats: tuple[ImageFormat, ...] = ("jpeg", "png", "webp", "bmp")
        files += [encode_image(image, kind) for kind in formats]
        photo = Pillow.fromarray(image)
        exif = Pillow.Exif()
        exif[0x0112] = 6  # orientation: turned by a quarter
        files += [
            _written(photo, "JPEG", progressive=True, quality=80),
            _written(photo, "JPEG", exif=exif, subsampling=0),
            _written(photo.convert("CMYK"), "JPEG"),
            _written(photo.convert("L"), "JPEG"),
            _written(photo, "JPEG", restart_marker_blocks=2, icc_profile=bytes(300)),
            _written(photo.convert("P"), "PNG"),
            _written(photo.convert("RGBA"), "PNG"),
            _written(photo.convert("L"), "PNG"),
            _written(photo.convert("1"), "PNG"),
            _written(photo, "PNG", exif=exif, icc_profile=bytes(300)),
            _written(photo, "WEBP", lossless=True),
            _written(photo.convert("RGBA"), "WEBP", quality=60),
            _written(photo, "WEBP", exif=exif),
            _written(photo.convert("L"), "BMP"),
            _written(photo.convert("1"), "BMP"),
        ]
        deep = image.astype(np.uint16) * 257
        files.append(cv2.imencode(".png", deep)[1].tobytes())
    return files


def _written(image: Pillow.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def damage(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """One file, hurt one to four times. Checksums of PNGs are mostly made right again."""
    hurt = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        rng.choice(WAYS)(hurt, rng, others)
        if not hurt:
            break
    if hurt[:4] == b"\x89PNG" and rng.random() < 0.7:
        _mend_checksums(hurt)  # or the checksum is all that is ever found wrong
    return bytes(hurt)


def _flip(data: bytearray, rng: random.Random, _: list[bytes]) -> None:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _overwrite(data: bytearray, rng: random.Random, _: list[bytes]) -> None:
    at = rng.randrange(len(data))
    data[at : at + rng.randint(1, 32)] = rng.randbytes(rng.randint(1, 32))


def _header_number(data: bytearray, rng: random.Random, _: list[bytes]) -> None:
    """An absurd number where sizes and lengths stand: mostly near the start."""
    at = rng.randrange(min(len(data), rng.choice((32, 64, 400))))
    form = rng.choice(("B", ">H", "<H", ">I", "<I"))
    value = rng.choice(ABSURD) & (256 ** struct.calcsize(form) - 1)
    data[at : at + struct.calcsize(form)] = struct.pack(form, value)


def _cut(data: bytearray, rng: random.Random, _: list[bytes]) -> None:
    del data[rng.randrange(len(data)) :]


def _remove(data: bytearray, rng: random.Random, _: list[bytes]) -> None:
    at = rng.randrange(len(data))
    del data[at : at + rng.randint(1, 64)]


def _repeat(data: bytearray, rng: random.Random, _: list[bytes]) -> None:
    at = rng.randrange(len(data))
    part = data[at : at + rng.randint(1, 200)]
    data[at:at] = part * rng.choice((1, 2, 50))


def _splice(data: bytearray, rng: random.Random, others: list[bytes]) -> None:
    """Goes on as another file does."""
    other = rng.choice(others)
    data[rng.randrange(len(data)) :] = other[rng.randrange(len(other)) :]


WAYS: tuple[Callable[[bytearray, random.Random, list[bytes]], None], ...] = (
    _flip, _overwrite, _header_number, _header_number, _cut, _remove, _repeat, _splice,
)  # fmt: skip


def _mend_checksums(png: bytearray) -> None:
    at = 8
    while at + 12 <= len(png):
        length = struct.unpack_from(">I", png, at)[0]
        end = at + 8 + length
        if end + 4 > len(png):
            return
        png[end : end + 4] = struct.pack(">I", zlib.crc32(png[at + 4 : end]))
        at = end + 4


def run(count: int, seed: int, at: Path | None) -> dict[str, object]:
    """What became of `count` damaged files; faults name the first few files by their number."""
    rng = random.Random(seed)
    sound = seeds()
    outcomes: Counter[str] = Counter()
    faults: list[str] = []
    slowest = 0.0
    for number in range(count):
        data = damage(rng.choice(sound), rng, sound)
        if at is not None:
            at.write_bytes(data)
        start = time.process_time()
        try:
            image = decode_image(data, MAX_PIXELS)
            outcomes["read"] += 1
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                faults.append(f"{number}: {image.dtype} {image.shape}")
        except ImageError as error:
            outcomes[type(error).__name__] += 1
        except BaseException:  # whatever it is, it is what is looked for
            faults.append(f"{number}: {traceback.format_exc(limit=-2)}")
        slowest = max(slowest, time.process_time() - start)
    return {
        "count": count,
        "outcomes": dict(outcomes),
        "faults": faults[:10],
        "slowest_s": round(slowest, 3),
        "peak_mib": peak_kib() // 1024,
    }


def peak_kib() -> int:
    """The most memory that this process has held; getrusage would count its parent's too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def main() -> None:
    """Reads the command line and prints what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--at", type=Path)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = used + MEMORY_MIB * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    found = run(arguments.count, arguments.seed, arguments.at)
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
