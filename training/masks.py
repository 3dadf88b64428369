"""COCO's polygons and runs as masks: a PNG a photograph, in which each pixel is a class.

Class 0 is what nobody outlined; the others follow in the order that is asked for. Where outlines
overlap, the smaller thing lies on top. Crowds are 255, which training passes over,
and lie below.
"""

import io
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pycocotools import mask as coco
from pydantic import AfterValidator, BaseModel, Field, FiniteFloat, PositiveInt, TypeAdapter

from heads.classes import palette
from heads.files import write_whole
from training.annotations import Id, checked, read_json
from training.errors import AnnotationError, DataError
from training.losses import IGNORED

Mask = npt.NDArray[np.uint8]

BACKGROUND = "background"
MOST = 255
"""Classes that a mask can tell apart, the background among them."""

LONGEST_SIDE = 65_535
"""Pixels; more than any JPEG has."""

LONGEST_NAME = 250
"""Bytes of a file's name without its ending; file systems take 255."""

FARTHEST = 10
"""So many times its image's longest side an outline may leave it: pycocotools follows it pixel by
pixel, and ends the process where there are too many."""


class _Runs(BaseModel):
    size: tuple[PositiveInt, PositiveInt]
    counts: str | list[int]


class _Outlined(BaseModel):
    id: Id = ""
    image_id: Id
    category_id: int
    segmentation: _Runs | list[list[FiniteFloat]]
    iscrowd: int = 0


def _writable(file_name: str) -> str:
    """ValueError where no file could be called so."""
    if "\0" in file_name or len(Path(file_name).stem.encode()) > LONGEST_NAME:
        raise ValueError(f"no file can be called {file_name[:80]!r}")
    return file_name


class _Photograph(BaseModel):
    id: Id
    file_name: Annotated[str, AfterValidator(_writable)]
    height: Annotated[int, Field(gt=0, le=LONGEST_SIDE)]
    width: Annotated[int, Field(gt=0, le=LONGEST_SIDE)]


class _Category(BaseModel):
    id: int
    name: str


class _CocoFile(BaseModel):
    images: list[_Photograph]
    categories: list[_Category]
    annotations: list[dict[str, Any]]


_FILE, _OUTLINED = TypeAdapter(_CocoFile), TypeAdapter(_Outlined)


def write_masks(
    annotations: Path, folder: Path, classes: Sequence[str] = (), *, force: bool = False
) -> tuple[tuple[str, ...], int]:
    """Writes NAME.png for every photograph of a COCO file; returns all classes, and how many files.

    folder: for them, made where it is missing.
    classes: those to tell apart, by name; empty: all of the file, by their ids. What is outlined
    as anything else counts as background.  force: replaces files that are there.
    Raises AnnotationError, which names the file and the entry, or DataError; nothing is written
    then where a file is there already or two photographs would have the same mask.
    """
    name = annotations.name
    content = checked(_FILE, read_json(annotations), f"{name} is no COCO file")
    known = {entry.name: entry.id for entry in sorted(content.categories, key=lambda c: c.id)}
    if len(known) < len(content.categories):
        raise AnnotationError(f"{name} has two categories of one id or name")
    chosen = tuple(classes) or tuple(known)
    if missing := [one for one in chosen if one not in known]:
        raise DataError(f"{name} has no category {missing[0]!r}; it has {', '.join(known)}")
    if len(chosen) >= MOST:
        raise DataError(f"{len(chosen)} classes; a mask tells {MOST - 1} and the background apart")
    numbers = {known[one]: number for number, one in enumerate(chosen, start=1)}
    others = {str(number) for number in known.values() if number not in numbers}
    outlined: dict[Id, list[_Outlined]] = {photograph.id: [] for photograph in content.images}
    for place, entry in enumerate(content.annotations):
        if str(entry.get("category_id")) in others:  # which need not be an outline
            continue
        where = f"{name}, annotation {entry.get('id', f'at place {place}')}"
        one = checked(_OUTLINED, entry, where)
        if one.category_id not in numbers:
            raise AnnotationError(f"{where} is of category {one.category_id}, which is not listed")
        if one.image_id not in outlined:
            raise AnnotationError(f"{where} is of image {one.image_id}, which is not listed")
        outlined[one.image_id].append(one)
    files = _files(content.images, folder, force)
    folder.mkdir(parents=True, exist_ok=True)
    for file, photograph in files.items():
        size = (photograph.height, photograph.width)
        mask = _painted(outlined[photograph.id], numbers, size, name)
        write_whole(file, _encoded(mask))
    return (BACKGROUND, *chosen), len(files)


def _files(
    photographs: Iterable[_Photograph], folder: Path, force: bool
) -> dict[Path, _Photograph]:
    """Where each photograph's mask goes."""
    files: dict[Path, _Photograph] = {}
    for photograph in photographs:
        file = folder / f"{Path(photograph.file_name).stem}.png"
        if file in files:
            names = f"{files[file].file_name} and {photograph.file_name}"
            raise DataError(f"{names} would have the same mask")
        if file.exists() and not force:
            raise DataError(f"{file} is there already; --force replaces it")
        files[file] = photograph
    return files


def _encoded(mask: Mask) -> bytes:
    """A PNG whose numbers are classes and which shows them as colours."""
    picture, buffer = Image.fromarray(mask), io.BytesIO()
    picture.putpalette([value for colour in palette(256) for value in colour])
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _painted(
    things: Iterable[_Outlined], numbers: dict[int, int], size: tuple[int, int], name: str
) -> Mask:
    shapes = [(_shape(thing, size, name), thing) for thing in things]
    mask = np.zeros(size, np.uint8)
    for shape, thing in sorted(shapes, key=lambda pair: (not pair[1].iscrowd, -pair[0].sum())):
        mask[shape] = IGNORED if thing.iscrowd else numbers[thing.category_id]
    return mask


def _shape(thing: _Outlined, size: tuple[int, int], name: str) -> npt.NDArray[np.bool_]:
    """The pixels of a thing; AnnotationError for an outline that is none."""
    where, given = f"{name}, annotation {thing.id}", thing.segmentation
    if isinstance(given, list):
        polygons = [polygon for polygon in given if len(polygon) >= 6]
        if not polygons:
            return np.zeros(size, np.bool_)
        farthest = FARTHEST * max(size)
        if max(map(abs, itertools.chain.from_iterable(polygons))) > farthest:
            raise AnnotationError(f"{where} has corners more than {farthest} pixels away")
        try:
            runs = coco.merge(coco.frPyObjects(polygons, *size))
        except (ValueError, TypeError) as error:
            raise AnnotationError(f"{where} has no polygons that can be read: {error}") from error
        counts = _unpacked(runs["counts"])
    elif given.size != size:
        raise AnnotationError(f"{where} is {given.size} large, its image {size}")
    elif isinstance(given.counts, str):
        counts = _unpacked(given.counts.encode())
    else:
        counts = given.counts
    if sum(counts) != size[0] * size[1] or min(counts, default=0) < 0:
        raise AnnotationError(f"{where}: its runs are not as long as its image")
    inside = np.arange(len(counts)) % 2 == 1
    return np.repeat(inside, counts).reshape(size, order="F")


def _unpacked(text: bytes) -> list[int]:
    """Lengths of runs as COCO packs them.

    Five bits a letter from "0" on, the lowest first; 32 where more follow, 16 in the last for less
    than nothing. From the fourth run on, what is added to the length before the last.
    (pycocotools' own way back fills what too few runs leave open with whatever is in memory.)
    """
    counts: list[int] = []
    value, shift = 0, 0
    for letter in text:
        bits = letter - ord("0")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value, shift = 0, 0
    return counts
