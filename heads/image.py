"""Bytes to an image and back: the one reader for training, evaluation and service.

Everywhere else an `image` is RGB uint8 [H, W, 3], upright. OpenCV's BGR order stays in this file,
and so do the traps of its decoder: IMREAD_COLOR_RGB turns by EXIF and drops alpha, which is what is
wanted here; the header is read first, so a small file cannot unfold into gigabytes.
"""

import math
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from heads.errors import ImageError, TooManyPixels
from heads.geometry import Crop, reduced
from heads.png_chunks import SIGNATURE, shows_frames, without_remarks

Image = npt.NDArray[np.uint8]
"""RGB uint8 [H, W, 3], upright."""

ImageFormat = Literal["jpeg", "png", "webp", "bmp"]

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
"""How names of photographs end, in lower case, where a folder is looked through for them."""

PNG_DEPTH = 24
"""Where a PNG's header says how many bits a number has."""

# Codes that follow 0xFF in a JPEG and start a frame header: SOF0..SOF15 without DHT, JPG and DAC.
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Written as RGB by the decoder itself; OpenCV has no names for the reduced ones.
_REDUCED = {
    1: cv2.IMREAD_COLOR_RGB,
    2: cv2.IMREAD_COLOR_RGB | cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_COLOR_RGB | cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_COLOR_RGB | cv2.IMREAD_REDUCED_GRAYSCALE_8,
}
_JPEG_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})
_SOS, _EOI, _APP1 = 0xDA, 0xD9, 0xE1
_SCAN_PAIR = 0xFF | _SOS << 8  # both bytes of the marker, the first one lowest
_MARKER = re.compile(rb"\xff[^\x00\xff]")
_AFTER_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # restarts are part of a scan

MAX_SEGMENTS = 10_000
"""A JPEG's header may have so many parts; one that is nothing but parts would take long to walk."""

MAX_SCANS = 32
"""A JPEG may be refined in so many passes; encoders use 10 or so. In each the decoder walks over
all pixels, however little it holds, so that 76 kB could keep it busy for seconds."""


def photographs(folder: Path) -> list[Path]:
    """The files of a folder that are named as photographs are, by name."""
    return sorted(filter(is_photograph, folder.iterdir()))


def is_photograph(path: Path) -> bool:
    """By the end of its name; hidden files are none, which macOS leaves beside (`._a.jpg`)."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def decode_image(data: bytes, max_pixels: int | None = None, *, reduce: int = 1) -> Image:
    """The upright RGB image in the bytes of a JPEG, PNG, WebP or BMP file.

    Grey, palette, CMYK and 16-bit images become 8-bit RGB; alpha is dropped; EXIF turns.
    max_pixels: refuses larger images by their header, before any pixel is decoded.
    reduce: 1, 2, 4 or 8: of a JPEG, pixels that show the mean of so many in height and width, see
        `geometry.reduced`; the last column and row may show fewer. See `heads.photo`.
    Raises ImageError (not one whole image) or TooManyPixels.
    """
    kind, _, _ = checked_header(data, max_pixels)
    return decode_checked(data, kind, reduce)


def decode_checked(data: bytes, kind: ImageFormat, reduce: int) -> Image:
    """As decode_image, of a file whose header has been looked at by checked_header."""
    if kind == "png":
        data = without_remarks(data)
    try:
        rgb = cv2.imdecode(np.frombuffer(data, np.uint8), _REDUCED[reduce])
    except cv2.error as error:
        raise ImageError(f"the {kind} image cannot be decoded") from error
    if rgb is None:
        raise ImageError(f"the {kind} image is damaged or truncated")
    return np.asarray(rgb, dtype=np.uint8)


def checked_header(data: bytes, max_pixels: int | None) -> tuple[ImageFormat, int, int]:
    """As read_header; TooManyPixels for more than max_pixels, ImageError for endless scans."""
    kind, width, height = read_header(data)
    if max_pixels is not None and width * height > max_pixels:
        raise TooManyPixels(width, height, max_pixels)
    if kind == "jpeg":
        _check_scans(data)
    return kind, width, height


def read_image(path: Path | str, max_pixels: int | None = None) -> Image:
    """The upright RGB image in a file; ImageError names the file."""
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path.name} cannot be read: {error.strerror}") from error
    try:
        return decode_image(data, max_pixels)
    except TooManyPixels:
        raise
    except ImageError as error:
        raise ImageError(f"{path.name}: {error}") from error


def read_mask(path: Path) -> npt.NDArray[np.uint8]:
    """The number in each pixel of a grey or palette PNG, [H, W]; ImageError for any other file.

    OpenCV would give the colours of a palette instead of its numbers, so Pillow reads masks.
    """
    from PIL import Image as Pillow

    try:
        with Pillow.open(path) as file:
            if file.format != "PNG" or file.mode not in ("L", "P"):
                raise ImageError(
                    f"{path.name} is a {file.format} of mode {file.mode}; a mask is a PNG with one "
                    "number of 8 bits a pixel (grey or palette)"
                )
            depth = path.read_bytes()[PNG_DEPTH]
            if file.mode == "L" and depth != 8:
                raise ImageError(
                    f"{path.name} has {depth} bits of grey a pixel, which would be scaled to 8; a "
                    "grey mask has 8"
                )
            return np.array(file)
    except (OSError, SyntaxError, ValueError, Pillow.DecompressionBombError) as error:
        raise ImageError(f"{path.name} cannot be read as a mask: {error}") from error


def encode_image(image: Image, kind: ImageFormat = "jpeg", quality: int = 92) -> bytes:
    """An RGB image as the bytes of a file; quality is JPEG's."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if kind == "jpeg" else []
    done, data = cv2.imencode(f".{kind}", np.ascontiguousarray(image[:, :, ::-1]), options)
    if not done:
        raise ImageError(f"an image of shape {image.shape} cannot be written as {kind}")
    return data.tobytes()


def warp(image: Image, crop: Crop, *, antialias: bool = True) -> Image:
    """The crop of an image, [H, W, 3] uint8; black outside the image.

    antialias: averages first where the crop shows the image at less than half its size, so that
    fine patterns do not turn into noise. Off reproduces the official bilinear crop.
    """
    matrix = crop.matrix
    factor = int(1 / crop.scale + 1e-6) if antialias else 1
    if factor >= 2:
        image, matrix = _shrink(image, crop, factor)
    height, width = crop.input_size
    return np.asarray(
        cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR), dtype=np.uint8
    )


def _shrink(image: Image, crop: Crop, factor: int) -> tuple[Image, npt.NDArray[np.float64]]:
    """The part of the image that the crop sees, averaged by `factor`, and the map from it.

    Columns and rows at the image's end that fill no averaged pixel are left out: less than one of
    the crop's, and nothing that scores show.
    """
    height, width = crop.input_size
    corners = crop.to_image(
        np.array(
            [[0, 0], [width - 1, 0], [0, height - 1], [width - 1, height - 1]], dtype=np.float64
        )
    )
    # One averaged pixel more on each side: bilinear interpolation looks at its neighbours.
    low = np.floor(corners.min(axis=0)) - factor
    high = np.ceil(corners.max(axis=0)) + 1 + factor
    x0, x1 = (int(np.clip(v, 0, image.shape[1])) for v in (low[0], high[0]))
    y0, y1 = (int(np.clip(v, 0, image.shape[0])) for v in (low[1], high[1]))
    columns, rows = (x1 - x0) // factor, (y1 - y0) // factor
    if columns < 1 or rows < 1:
        return image, crop.matrix
    part = image[y0 : y0 + rows * factor, x0 : x0 + columns * factor]
    small = np.asarray(
        cv2.resize(part, (columns, rows), interpolation=cv2.INTER_AREA), dtype=np.uint8
    )
    shifted = crop.matrix.copy()
    shifted[:, 2] += crop.matrix[:, :2] @ np.array([x0, y0], dtype=np.float64)
    return small, reduced(shifted, factor)


def read_header(data: bytes) -> tuple[ImageFormat, int, int]:
    """Kind, width and height that a file's header promises, as stored (before EXIF turns it).

    Looks at the content, never at a name. Raises ImageError for anything but one JPEG, PNG, WebP
    or BMP image with positive sides.
    """
    if not data:
        raise ImageError("the image is empty (0 bytes)")
    try:
        kind, width, height = _read_header(data)
    except (struct.error, IndexError) as error:
        raise ImageError("the image ends within its header") from error
    if width <= 0 or height <= 0:
        raise ImageError(f"the {kind} header promises {width} x {height} pixels")
    return kind, width, height


def _read_header(data: bytes) -> tuple[ImageFormat, int, int]:
    if data[:3] == b"\xff\xd8\xff":
        return ("jpeg", *_jpeg_size(data))
    if data[:8] == SIGNATURE:
        if shows_frames(data):
            raise ImageError("the PNG has more than one frame; send one image")
        width, height = struct.unpack_from(">II", data, 16)
        return "png", width, height
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return ("webp", *_webp_size(data))
    if data[:2] == b"BM":
        if struct.unpack_from("<I", data, 14)[0] == 12:  # the OS/2 header has 16-bit sides
            width, height = struct.unpack_from("<HH", data, 18)
        else:
            width, height = struct.unpack_from("<ii", data, 18)
        return "bmp", width, abs(height)  # a negative height is a top-down bitmap
    raise ImageError("not an image: JPEG, PNG, WebP and BMP are read")


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Sides in the first frame header (ITU T.81, B.2.2)."""
    for code, at in _jpeg_segments(data):
        if code in _SOF:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height
    raise ImageError("the JPEG image ends within its header")


def may_be_turned(data: bytes) -> bool:
    """True for a JPEG with a part where EXIF may stand, and say that it is to be shown turned."""
    for code, _ in _jpeg_segments(data):
        if code in (_APP1, _SOS):
            return code == _APP1
    return False


def _check_scans(data: bytes) -> None:
    """Refuses a JPEG of more than MAX_SCANS scans."""
    # Pixels never look like a marker, so nearly always it is enough to count what does.
    looks_like_scan = sum(
        np.count_nonzero(np.frombuffer(data, "<u2", (len(data) - start) // 2, start) == _SCAN_PAIR)
        for start in (0, 1)
    )
    if looks_like_scan <= MAX_SCANS:
        return
    scans = sum(code == _SOS for code, _ in _jpeg_segments(data))
    if scans > MAX_SCANS:
        raise ImageError(f"the JPEG image has {scans} scans; {MAX_SCANS} are read")


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Code and place of every marker up to the image's end; what lies behind that is not read.

    Bytes between segments are passed over, as the decoder does.
    """
    at, code = 2, 0
    for _ in range(MAX_SEGMENTS):
        found = (_AFTER_SCAN if code == _SOS else _MARKER).search(data, at)
        if found is None:
            return
        at, code = found.start(), data[found.start() + 1]
        if code == _EOI:
            return
        yield code, at
        at += 2
        if code not in _JPEG_WITHOUT_LENGTH:
            if at + 2 > len(data):
                return
            at += max(2, struct.unpack_from(">H", data, at)[0])
    raise ImageError(f"the JPEG image has more than {MAX_SEGMENTS} segments")


def _webp_size(data: bytes) -> tuple[int, int]:
    """Sides of the lossy, lossless or extended form (RFC 9649, section 2)."""
    form = data[12:16]
    if form == b"VP8X":
        if data[20] & 0x02:
            raise ImageError("the WebP is an animation; send one image")
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if form == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    if form == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    raise ImageError("the WebP header is damaged")


def fits(image: object) -> bool:
    """True for what the library calls an image: RGB uint8 [H, W, 3] with at least one pixel."""
    return (
        isinstance(image, np.ndarray)
        and image.dtype == np.uint8
        and image.ndim == 3
        and image.shape[2] == 3
        and math.prod(image.shape) > 0
    )
