"""Every kind of file becomes the same upright RGB image, and what is none is refused in words."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import ImageCms

from heads.errors import ImageError, TooManyPixels
from heads.geometry import Crop
from heads.image import decode_image, encode_image, fits, photographs, read_header, warp
from heads.png_chunks import MAX_CHUNKS, without_remarks

EXIF_ORIENTATION = 0x0112


@pytest.fixture(scope="module")
def scene() -> Any:
    """A smooth image, 60 x 90, whose corners and channels all differ."""
    y, x = np.mgrid[0:60, 0:90]
    return np.stack([2 * x + 40, 3 * y + 20, 255 - x - 2 * y], axis=2).clip(0, 255).astype(np.uint8)


def file_of(image: Any, kind: str, mode: str = "RGB", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Pillow.fromarray(image).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("kind", "mode", "options", "tolerance"),
    [
        ("JPEG", "RGB", {"quality": 98}, 4),
        ("JPEG", "RGB", {"quality": 98, "progressive": True}, 4),
        ("JPEG", "CMYK", {"quality": 98}, 6),
        ("PNG", "RGB", {}, 0),
        ("PNG", "RGBA", {}, 0),
        ("WEBP", "RGB", {"lossless": True}, 0),
        ("WEBP", "RGBA", {"lossless": True}, 0),
        ("WEBP", "RGB", {"quality": 98}, 12),
        ("BMP", "RGB", {}, 0),
    ],
)
def test_every_kind_of_file_gives_the_same_image(
    scene: Any, kind: str, mode: str, options: dict[str, Any], tolerance: int
) -> None:
    data = file_of(scene, kind, mode, **options)
    assert read_header(data) == (kind.lower(), 90, 60)
    image = decode_image(data)
    assert fits(image)
    assert np.abs(image.astype(int) - scene).max() <= tolerance


@pytest.mark.parametrize(
    ("kind", "mode"), [("PNG", "L"), ("JPEG", "L"), ("PNG", "LA"), ("BMP", "L")]
)
def test_grey_becomes_three_equal_channels(scene: Any, kind: str, mode: str) -> None:
    image = decode_image(file_of(scene, kind, mode))
    assert image.shape == (60, 90, 3)
    assert np.abs(image[..., 0].astype(int) - image[..., 2]).max() <= 1
    grey = np.asarray(Pillow.fromarray(scene).convert("L"))
    assert np.abs(image[..., 1].astype(int) - grey).max() <= 4


def test_a_palette_becomes_its_colours(scene: Any) -> None:
    data = file_of(scene, "PNG", "P")
    colours = np.asarray(Pillow.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(decode_image(data), colours)


def test_sixteen_bits_become_eight() -> None:
    grey = (np.arange(60 * 90).reshape(60, 90) * 12).astype(np.uint16)
    buffer = io.BytesIO()
    Pillow.fromarray(grey).save(buffer, "PNG")
    image = decode_image(buffer.getvalue())
    assert image.dtype == np.uint8
    assert np.abs(image[..., 0].astype(int) - grey // 256).max() <= 1


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_the_image_upright(scene: Any, kind: str, orientation: int) -> None:
    turns = {
        1: scene,
        2: scene[:, ::-1],
        3: scene[::-1, ::-1],
        4: scene[::-1],
        5: scene.transpose(1, 0, 2),
        6: scene.transpose(1, 0, 2)[::-1],
        7: scene.transpose(1, 0, 2)[::-1, ::-1],
        8: scene.transpose(1, 0, 2)[:, ::-1],
    }
    # Stored so that a viewer which obeys the tag shows `scene`.
    exif = Pillow.Exif()
    exif[EXIF_ORIENTATION] = orientation
    options = {"quality": 98} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    data = file_of(np.ascontiguousarray(turns[orientation]), kind, exif=exif, **options)
    image = decode_image(data)
    assert image.shape == scene.shape
    assert np.abs(image.astype(int) - scene).max() <= 6


def test_channels_are_red_green_blue() -> None:
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 255
    for kind in ("png", "jpeg", "webp", "bmp"):
        pixel = decode_image(encode_image(red, kind))[4, 4]
        assert pixel[0] > 240
        assert pixel[2] < 15


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"hello, this is no image at all", "not an image"),
        (b"GIF89a" + bytes(50), "not an image"),
        (b"%PDF-1.7" + bytes(50), "not an image"),
        (b"\xff\xd8\xff", "ends within its header"),
        (b"\x89PNG\r\n\x1a\n", "ends within its header"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "ends within its header"),
        (b"BM", "ends within its header"),
    ],
)
def test_what_is_no_image_is_refused_in_words(data: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        decode_image(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_truncated_file_is_refused(kind: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (80, 80, 3), dtype=np.uint8)
    data = file_of(noise, kind)
    with pytest.raises(ImageError):
        decode_image(data[: int(len(data) * share)])


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises width x height pixels and holds none."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    )


def test_too_many_pixels_are_refused_by_the_header() -> None:
    data = png_header(20_000, 20_000) + bytes(900)
    with pytest.raises(TooManyPixels, match=r"20000 x 20000 = 400\.0 megapixels; at most 50\.0"):
        decode_image(data, max_pixels=50_000_000)


def test_a_lossy_webp_may_wish_to_be_shown_larger(scene: Any) -> None:
    """The two highest bits of each side; decoders pass them over (RFC 6386, section 9.1)."""
    data = bytearray(file_of(scene, "WEBP", quality=98))
    assert data[12:16] == b"VP8 "
    data[27] |= 0x80
    data[29] |= 0x40
    assert read_header(bytes(data)) == ("webp", 90, 60)


def test_a_side_of_zero_is_refused() -> None:
    with pytest.raises(ImageError, match="0 x 10"):
        decode_image(png_header(0, 10))


def test_several_frames_are_refused() -> None:
    frames = [Pillow.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    for kind, word in (("WEBP", "animation"), ("PNG", "more than one frame")):
        buffer = io.BytesIO()
        frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
        with pytest.raises(ImageError, match=word):
            decode_image(buffer.getvalue())


def chunk(kind: bytes, content: bytes = b"", crc: int | None = None) -> bytes:
    """A chunk of a PNG; crc: in place of the right one."""
    right = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc or right)


def with_chunks(data: bytes, *chunks: bytes) -> bytes:
    """A PNG with more chunks behind its header."""
    return b"".join([data[:33], *chunks, data[33:]])


def test_frames_are_looked_for_behind_a_long_profile(scene: Any) -> None:
    frames = chunk(b"acTL", struct.pack(">II", 2, 0))
    data = with_chunks(file_of(scene, "PNG"), chunk(b"prVt", bytes(70_000)), frames)
    with pytest.raises(ImageError, match="more than one frame"):
        read_header(data)


def test_a_comment_about_frames_is_none(scene: Any) -> None:
    data = with_chunks(file_of(scene, "PNG"), chunk(b"tEXt", b"Comment\0the acTL chunk"))
    np.testing.assert_array_equal(decode_image(data), scene)


def test_what_a_png_remarks_is_never_written_out(scene: Any, capfd: Any) -> None:
    """The decoder would print the name of a profile that it finds fault with, whatever it holds."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[68] ^= 0xFF  # its illuminant
    forged = chunk(b"iCCP", b"x\nforged line\n\0\0" + zlib.compress(bytes(profile)))
    broken = chunk(b"tEXt", b"a\0b", crc=1)
    plain = file_of(scene, "PNG")
    data = with_chunks(plain, forged, *[broken] * 1000)
    np.testing.assert_array_equal(decode_image(data), scene)
    cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert "\nforged line\n" in capfd.readouterr().err  # or this test would show nothing
    decode_image(data)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("mode", ["P", "RGBA", "L", "I;16", "1", "LA"])
def test_without_remarks_a_png_has_the_same_pixels(scene: Any, mode: str) -> None:
    picture = Pillow.fromarray(scene).convert("RGB" if mode in ("RGBA", "P") else "L")
    buffer, exif = io.BytesIO(), Pillow.Exif()
    exif[EXIF_ORIENTATION] = 6
    options = {"transparency": 3} if mode == "P" else {}
    picture.convert(mode).save(buffer, "PNG", exif=exif, dpi=(72, 72), gamma=0.5, **options)
    data = with_chunks(buffer.getvalue(), chunk(b"gAMA", struct.pack(">I", 45455)))
    assert len(without_remarks(data)) < len(data)
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert expected is not None
    assert expected.shape == (90, 60, 3)
    np.testing.assert_array_equal(decode_image(data), expected)


def test_a_png_of_nothing_but_chunks_is_refused(scene: Any) -> None:
    data = with_chunks(file_of(scene, "PNG"), chunk(b"tEXt") * (MAX_CHUNKS + 1))
    with pytest.raises(ImageError, match="more than 100000 chunks"):
        read_header(data)


def test_the_official_crop_is_reproduced(legacy: Any, fill: Any) -> None:
    """One grey level is the difference between two correct bilinear implementations."""
    for case in legacy["legacy"]["crop"]:
        width, height = case["output_size"]
        center, box_width = case["center"], case["scale"][0] * 200
        box_height = box_width * height / width
        box = (center[0] - box_width / 2, center[1] - box_height / 2, box_width, box_height)
        crop = Crop.around(
            box, (height, width), alignment="legacy", padding=1.0, rotation_deg=case["rot"]
        )
        made = warp(fill.make_image(*case["image"]), crop, antialias=False)
        values = made.ravel()[fill.sample_indices(made.size)].astype(int)
        assert np.abs(values - case["values"]).max() <= 1
        assert abs(int(made.sum()) - case["sum"]) <= made.size * 0.02


@pytest.mark.parametrize("factor", [1.7, 2.0, 3.3, 6.0])
def test_antialiasing_keeps_everything_in_its_place(factor: float) -> None:
    """A smooth image has nothing to alias, so both ways of shrinking it agree."""
    height, width = int(96 * factor), int(64 * factor)
    y, x = np.mgrid[0:height, 0:width]
    smooth = np.stack([x * 200 / width, y * 200 / height, x * 0 + 90], axis=2).astype(np.uint8)
    crop = Crop.around((3.0, 5.0, width - 6.0, height - 10.0), (96, 64), padding=0.9)
    plain = warp(smooth, crop, antialias=False).astype(int)
    averaged = warp(smooth, crop).astype(int)
    assert np.abs(plain - averaged).max() <= 2


def test_antialiasing_removes_fine_patterns() -> None:
    stripes = np.zeros((640, 640, 3), np.uint8)
    stripes[:, ::2] = 255
    crop = Crop.letterbox((640, 640), 64, multiple=32, max_long=64)
    assert warp(stripes, crop).std() < 3


def test_outside_the_image_is_black() -> None:
    white = np.full((50, 50, 3), 255, np.uint8)
    crop = Crop.around((-50.0, -50.0, 150.0, 150.0), (64, 64))
    made = warp(white, crop)
    assert made[0, 0].max() == 0
    assert made[32, 32].min() == 255
    far = warp(white, Crop.around((5000.0, 5000.0, 40.0, 40.0), (64, 64)))
    assert far.max() == 0


def test_photographs_of_a_folder_are_told_by_the_ends_of_their_names(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.PNG", "c.webp", "notes.txt", "jpg", "._b.jpg"):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in photographs(tmp_path)] == ["a.PNG", "b.jpg", "c.webp"]
