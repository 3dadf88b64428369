"""A photograph that is decoded no larger than what is looked at needs.

A JPEG can be decoded at a half, a quarter or an eighth of its size in a fraction of the time. A
view that shows the photograph smaller than that loses nothing by it, so views are cut from the
smallest such decoding; every answer keeps counting the pixels of the photograph itself.
"""

import math
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from heads.errors import ImageError
from heads.geometry import Crop, Size, reduced
from heads.image import Image, checked_header, decode_checked, fits, may_be_turned, warp
from models.errors import ShapeError

FACTORS = (8, 4, 2)
"""So many times smaller a JPEG can be decoded."""

_FIRST_LOOK = 320
"""The short side, at least, when a photograph is decoded only to see how it is turned."""


class Room(Protocol):
    """Where decoded pixels are counted."""

    def take(self, count: int) -> None:
        """Before so many bytes are decoded; may wait, or raise."""

    def give(self, count: int) -> None:
        """When they are let go of."""


class Photo:
    """An image file, or pixels, and views of it. Of one thread; as a context it forgets at the end.

    max_pixels: refuses larger images by their header.
    decoding: held while pixels are decoded, so that not every thread does it at once.
    room: told of pixels that are decoded and forgotten.
    Raises ImageError (not one whole image; when pixels are first needed) or TooManyPixels.
    """

    def __init__(
        self,
        data: bytes,
        max_pixels: int | None = None,
        *,
        decoding: AbstractContextManager[Any] | None = None,
        room: Room | None = None,
    ) -> None:
        self._data = data
        self._decoding = decoding or nullcontext()
        self._room = room
        self._held = 0
        self._pixels: Image | None = None
        self._factor = 1
        self._kind, width, height = checked_header(data, max_pixels)
        self._stored = (height, width)
        self._jpeg = self._kind == "jpeg"
        # Only decoding tells whether it is.
        self._turned = not self._jpeg or may_be_turned(data)
        self._size = None if self._turned else self._stored
        self.decode_ms = 0.0
        """How long decoding has taken so far."""
        self.wait_ms = 0.0
        """How long there was no room for pixels so far."""

    @classmethod
    def of(cls, image: "Image | Photo") -> "Photo":
        """Pixels as a photograph; ShapeError for anything but RGB uint8 [H, W, 3]."""
        if isinstance(image, Photo):
            return image
        if not fits(image):
            is_array = isinstance(image, np.ndarray)
            got = f"{image.dtype} {image.shape}" if is_array else type(image).__name__
            raise ShapeError(f"an image is RGB uint8 [H, W, 3]; got {got}")
        photo = _Pixels.__new__(_Pixels)
        photo._pixels, photo._factor, photo.decode_ms, photo.wait_ms = image, 1, 0.0, 0.0
        photo._size = (image.shape[0], image.shape[1])
        return photo

    @property
    def size(self) -> Size:
        """(height, width) of the upright photograph."""
        if self._size is None:
            # Turned or not, its short side is the same; most networks look at no more than this.
            self._decode(min(self._stored) // _FIRST_LOOK)
        assert self._size is not None
        return self._size

    @property
    def shape(self) -> tuple[int, int, int]:
        """That of its array."""
        return (*self.size, 3)

    @property
    def pixels(self) -> Image:
        """All pixels, RGB uint8 [H, W, 3], upright."""
        return self._at_least(1)[0]

    def canvas(self) -> Image:
        """All pixels, to be drawn into a copy that is then written.

        Room is taken for both copies that this makes as well, at once: who waited for more while
        holding some could wait for ever.
        """
        self._decode(1, copies=2)
        return self.pixels

    def __array__(
        self, dtype: npt.DTypeLike | None = None, copy: bool | None = None
    ) -> npt.NDArray[Any]:
        """All pixels, for numpy."""
        return np.array(self.pixels, dtype=dtype, copy=copy)

    def views(self, crops: Sequence[Crop], *, antialias: bool = True) -> list[Image]:
        """What crops show of it, see `warp`; antialias off looks at all its pixels."""
        pixels, factor = self._at_least(_least_factor(crops) if antialias else 1)
        if factor > 1:
            crops = [Crop(reduced(crop.matrix, factor), crop.input_size) for crop in crops]
        return [warp(pixels, crop, antialias=antialias) for crop in crops]

    def prepare(self, crops: Sequence[Crop]) -> None:
        """Decodes what views of these crops need, so that coarser ones before need no decoding."""
        self._at_least(_least_factor(crops))

    def forget(self) -> None:
        """Frees the pixels; who asks for them again waits for them to be decoded again."""
        self._pixels = None
        if self._room is not None and self._held:
            self._room.give(self._held)
            self._held = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.forget()

    def _at_least(self, factor: int) -> tuple[Image, int]:
        """Pixels decoded at most `factor` times smaller, and how many times smaller they are."""
        if self._pixels is None or self._factor > max(1, factor):
            self._decode(factor)
        assert self._pixels is not None
        return self._pixels, self._factor

    def _decode(self, most: int, copies: int = 0) -> None:
        factor = next((f for f in FACTORS if f <= most and self._can_reduce(f)), 1)
        self.forget()  # before there are new ones
        if self._room is not None:
            count = 3 * math.prod(-(-side // factor) for side in self._stored) * (1 + copies)
            start = time.perf_counter()
            self._room.take(count)
            self._held = count
            self.wait_ms += (time.perf_counter() - start) * 1000
        with self._decoding:
            start = time.perf_counter()
            self._pixels = decode_checked(self._data, self._kind, factor)
            self._factor = factor
            self.decode_ms += (time.perf_counter() - start) * 1000
        if self._size is None:
            height, width = self._pixels.shape[:2]
            stands = (height, width) == tuple(-(-side // factor) for side in self._stored)
            self._size = self._stored if stands else (self._stored[1], self._stored[0])
            if factor == 1:
                self._size = (height, width)

    def _can_reduce(self, factor: int) -> bool:
        """False where the reduced pixels would not say how the photograph is turned.

        The last column and row of small pixels may be cut; turned, they could be the first.
        """
        if not self._jpeg:
            return False
        height, width = (-(-side // factor) for side in self._stored)
        whole = all(side % factor == 0 for side in self._stored)
        square = self._stored[0] == self._stored[1]
        return not self._turned or (whole and (square or height != width))


def read_photo(path: Path) -> Photo:
    """The photograph in a file; ImageError names the file."""
    try:
        return Photo(path.read_bytes())
    except OSError as error:
        raise ImageError(f"{path.name} cannot be read: {error.strerror}") from error
    except ImageError as error:
        raise ImageError(f"{path.name}: {error}") from error


def _least_factor(crops: Sequence[Crop]) -> int:
    """So many times smaller at most the photograph may be for views of these crops."""
    return min((int(1 / crop.scale + 1e-6) for crop in crops), default=FACTORS[0])


class _Pixels(Photo):
    """Pixels that came without a file."""

    def canvas(self) -> Image:
        """The pixels."""
        return self.pixels

    def forget(self) -> None:
        """They cannot be had again, so they stay."""
