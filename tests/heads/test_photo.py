"""A photograph decoded small: the same views, the true size, whichever way it is turned."""

import io
import threading
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow

from heads.errors import ImageError, TooManyPixels
from heads.geometry import Crop
from heads.image import Image, decode_image, encode_image, warp
from heads.photo import Photo
from models.errors import ShapeError

INPUT = (64, 48)


def blobs(height: int, width: int) -> Image:
    """Soft coloured blobs, different everywhere."""
    rng = np.random.default_rng(height)
    small = rng.integers(60, 200, (9, 8, 3), np.uint8)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def jpeg(image: Image, orientation: int | None = None, **options: Any) -> bytes:
    """A JPEG, with an EXIF note of how it should be turned."""
    file = io.BytesIO()
    if orientation:
        exif = Pillow.Exif()
        exif[0x0112] = orientation
        options["exif"] = exif
    Pillow.fromarray(image).save(file, "jpeg", quality=95, **options)
    return file.getvalue()


def shift_between(image: Image, other: Image) -> float:
    """By how many pixels `image` lies off from `other`, by least squares over its gradients."""
    a, b = image[..., 1].astype(np.float64), other[..., 1].astype(np.float64)
    shown = np.pad(((a > 0) & (b > 0)).astype(np.uint8), 1)
    # No edge of the photograph: there, black is mixed in.
    inside = cv2.erode(shown, np.ones((9, 9), np.uint8))[1:-1, 1:-1] > 0
    down, right = np.gradient(b, axis=0), np.gradient(b, axis=1)
    sides = np.stack([right[inside], down[inside], np.ones(inside.sum())], axis=1)
    solved: Any = np.linalg.lstsq(sides, (a - b)[inside], rcond=None)
    return float(np.hypot(*solved[0][:2]))


def crops_of(height: int, width: int) -> list[Crop]:
    """Of the whole and of its parts, at many scales."""
    boxes = [
        (0, 0, width, height),
        (width // 3, height // 4, width // 2, height // 2),
        (width // 4, height // 4, 150, 200),
    ]
    return [Crop.around(box, INPUT) for box in boxes]


@pytest.mark.parametrize("size", [(768, 1024), (1024, 768), (801, 603), (1001, 1000), (800, 800)])
@pytest.mark.parametrize("orientation", [None, 1, 2, 3, 4, 5, 6, 7, 8])
def test_views_are_those_of_all_pixels_however_it_is_turned(
    size: tuple[int, int], orientation: int | None
) -> None:
    data = jpeg(blobs(*size), orientation)
    whole = decode_image(data)
    photo = Photo(data)
    assert photo.shape == whole.shape
    for crop in crops_of(whole.shape[0], whole.shape[1]):
        (view,) = Photo(data).views([crop])
        expected = warp(whole, crop)
        assert shift_between(view, expected) < 0.1


@pytest.mark.parametrize("options", [{"progressive": True}, {"subsampling": 0}, {"subsampling": 1}])
def test_every_kind_of_jpeg_is_reduced(options: dict[str, Any]) -> None:
    data = jpeg(blobs(1200, 900), **options)
    crop = Crop.around((0, 0, 900, 1200), INPUT)
    (view,) = Photo(data).views([crop])
    assert shift_between(view, warp(decode_image(data), crop)) < 0.1


@pytest.mark.parametrize("kind", ["png", "webp", "bmp"])
def test_other_files_are_decoded_whole(kind: str) -> None:
    data = encode_image(blobs(801, 603), kind)  # type: ignore[arg-type]
    crop = Crop.around((0, 0, 603, 801), INPUT)
    np.testing.assert_array_equal(Photo(data).views([crop])[0], warp(decode_image(data), crop))


def test_the_smallest_decoding_that_covers_a_view_is_taken() -> None:
    data = jpeg(blobs(1600, 1200))
    photo = Photo(data)
    photo.views([Crop.around((0, 0, 1200, 1600), INPUT)])
    assert photo._factor == 8
    photo.views([Crop.around((0, 0, 150, 200), INPUT), Crop.around((0, 0, 1200, 1600), INPUT)])
    assert photo._factor == 2
    photo.views([Crop.around((0, 0, 1200, 1600), INPUT)])
    assert photo._factor == 2, "what is finer serves as well and is not decoded again"


def test_what_was_prepared_for_a_fine_view_serves_a_coarse_one() -> None:
    photo = Photo(jpeg(blobs(1600, 1200)))
    fine, coarse = Crop.around((0, 0, 300, 400), INPUT), Crop.around((0, 0, 1200, 1600), INPUT)
    photo.prepare([fine])
    taken = photo.decode_ms
    for crop in (coarse, fine):
        np.testing.assert_array_equal(photo.views([crop])[0], photo.views([fine, crop])[1])
    assert photo.decode_ms == taken > 0


def test_a_crop_larger_than_life_and_the_official_crop_look_at_all_pixels() -> None:
    data = jpeg(blobs(800, 600))
    whole = decode_image(data)
    small, large = Crop.around((9, 9, 20, 30), INPUT), Crop.around((0, 0, 600, 800), INPUT)
    np.testing.assert_array_equal(Photo(data).views([small])[0], warp(whole, small))
    (official,) = Photo(data).views([large], antialias=False)
    np.testing.assert_array_equal(official, warp(whole, large, antialias=False))


def test_who_draws_gets_all_pixels_also_after_they_were_forgotten() -> None:
    data = jpeg(blobs(801, 603), 6)
    photo = Photo(data)
    photo.views([Crop.around((0, 0, 603, 801), INPUT)])
    photo.forget()
    assert photo.size == (603, 801)
    np.testing.assert_array_equal(np.asarray(photo), decode_image(data))


def test_pixels_without_a_file_are_a_photograph_and_are_not_forgotten() -> None:
    image = blobs(80, 60)
    photo = Photo.of(image)
    photo.forget()
    assert photo.pixels is image
    assert Photo.of(photo) is photo
    with pytest.raises(ShapeError, match="RGB uint8"):
        Photo.of(np.zeros((4, 4), np.uint8))


def test_bad_files_are_refused_by_the_header_or_when_looked_at() -> None:
    data = jpeg(blobs(800, 600))
    with pytest.raises(TooManyPixels):
        Photo(data, 100)
    with pytest.raises(ImageError):
        Photo(b"no image")
    for length in (400, 700):
        with pytest.raises(ImageError):
            Photo(data[:length]).views([])


def test_no_more_photographs_are_decoded_at_once_than_is_said() -> None:
    turn = threading.Semaphore(1)
    photo = Photo(jpeg(blobs(80, 60)), decoding=turn)
    turn.acquire()
    thread = threading.Thread(target=lambda: photo.pixels)
    thread.start()
    thread.join(0.05)
    assert thread.is_alive()
    turn.release()
    thread.join(10)
    assert photo.decode_ms > 0
