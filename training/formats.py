"""YOLO-pose folders -> the COCO content that everything else reads.

    data.yaml        path, train, val: where images lie; kpt_shape: [K, 2 or 3]; names: of classes;
                     flip_idx: the mirror partner of each keypoint; kpt_names: optional
    images/**/x.jpg  an image
    labels/**/x.txt  its labels: class cx cy w h, then K times x y [v], as shares of the image

As ultralytics reads them: an image's labels stand at the same place below `labels`; an image
without a file shows nobody; without v a keypoint is visible, and not labelled where it is negative.
(0, 0) without v is taken as not labelled too, because writers leave it there.

Keypoints need names: kpt_names where there are any, COCO's where there are 17 with COCO's partners,
else left_1, right_1, ... for partners, point_3, ... for the others. Which partner is called left
means nothing, it is the one that comes first. flip_idx says which are pairs, whatever they are
called; without it pairs are found by their names.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from heads.errors import ImageError
from heads.image import is_photograph, read_image
from heads.skeleton import COCO_17
from training.checks import BOX_AREA_SHARE
from training.errors import DataError

SPLITS = ("train", "val")


def is_yolo(path: Path) -> bool:
    """True for what is to be read as the data.yaml of a YOLO-pose folder."""
    return path.suffix.lower() in (".yaml", ".yml")


def read_yolo(
    path: Path, splits: Sequence[str] = SPLITS, *, bad: list[DataError] | None = None
) -> tuple[dict[str, Any], Path]:
    """A COCO keypoint file's content, and the folder that its file names start from.

    splits: of `train`, `val`, `test`, those that there are; images are numbered through them all.
    bad: gets what is wrong with images and labels, which are then left out.
    Raises DataError, which names the file and line, where bad is not given and for data.yaml.
    """
    settings = _settings(path)
    count, dimensions = _shape(path, settings)
    classes = _names(path, settings)
    partners = _partners(path, settings, count)
    root = _root(path, settings)
    given = [split for split in splits if settings.get(split)]
    if not given:
        raise DataError(f"{path.name} has none of {', '.join(splits)}")
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for file in _images(path, settings, root, given):
        try:
            height, width = read_image(file).shape[:2]
            people = list(_labels(file, count, dimensions, len(classes), (height, width), bad))
        except ImageError as error:
            _report(DataError(str(error)), bad)
            continue
        except DataError as error:
            _report(error, bad)
            continue
        image = {"id": len(images) + 1, "width": width, "height": height}
        images.append(image | {"file_name": file.relative_to(root).as_posix()})
        for person in people:
            ids = {"id": len(annotations) + 1, "image_id": image["id"]}
            annotations.append(ids | person)
    keypoints = _keypoint_names(path, settings, partners)
    skeleton = [[a + 1, b + 1] for a, b in COCO_17.edges] if keypoints == _COCO else []
    pairs = [[keypoints[k], keypoints[p]] for k, p in enumerate(partners) if p > k]
    fields = {"keypoints": keypoints, "skeleton": skeleton}
    fields |= {"flip_pairs": pairs} if settings.get("flip_idx") is not None else {}
    categories = [
        {"id": number, "name": name, **fields} for number, name in enumerate(classes, start=1)
    ]
    return {"images": images, "annotations": annotations, "categories": categories}, root


_COCO = list(COCO_17.keypoints)


def _report(error: DataError, bad: list[DataError] | None) -> None:
    if bad is None:
        raise error
    bad.append(error)


def _settings(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        content = yaml.safe_load(text)  # type: ignore[no-untyped-call]
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f", line {mark.line + 1}"
        reason = getattr(error, "problem", None) or error
        raise DataError(f"{path.name}{where} is no YAML: {reason}") from error
    except (OSError, ValueError, RecursionError) as error:  # ValueError: 2020-13-45 is no date
        raise DataError(f"{path.name} cannot be read: {_reason(error)}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path.name} has no keys; it needs kpt_shape, names, train, val")
    return content


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _shape(path: Path, settings: dict[str, Any]) -> tuple[int, int]:
    shape = settings.get("kpt_shape")
    if (
        not isinstance(shape, list)
        or [type(side) for side in shape] != [int, int]
        or shape[0] < 1
        or shape[1] not in (2, 3)
    ):
        raise DataError(f"{path.name}: kpt_shape is [keypoints, 2 or 3]; got {shape!r}")
    return shape[0], shape[1]


def _names(path: Path, settings: dict[str, Any]) -> list[str]:
    names = settings.get("names")
    if isinstance(names, dict) and set(names) == set(range(len(names))):
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise DataError(
            f"{path.name}: names is a list of classes, or 0: name and so on; got {names!r}"
        )
    return [str(name) for name in names]


def _partners(path: Path, settings: dict[str, Any], count: int) -> list[int]:
    partners = settings.get("flip_idx")
    if partners is None:
        return list(range(count))
    numbers = [k for k in partners if type(k) is int] if isinstance(partners, list) else []
    if numbers != partners or sorted(numbers) != list(range(count)):
        raise DataError(
            f"{path.name}: flip_idx has each of 0 to {count - 1} once; got {partners!r}"
        )
    if lonely := [k for k in range(count) if numbers[numbers[k]] != k]:
        raise DataError(
            f"{path.name}: flip_idx sends {lonely[0]} to {numbers[lonely[0]]}, "
            "which does not come back"
        )
    return numbers


def _root(path: Path, settings: dict[str, Any]) -> Path:
    """The folder of `path`, from where data.yaml lies; that of data.yaml where it names none."""
    root = path.parent / str(settings.get("path") or ".")
    if not root.is_dir():
        raise DataError(f"{path.name}: there is no folder {settings['path']} (path)")
    return root


def _images(
    path: Path, settings: dict[str, Any], root: Path, splits: Sequence[str]
) -> Iterator[Path]:
    """Image files of splits: of folders, and of lists of files."""
    for split in splits:
        places = settings[split] if isinstance(settings[split], list) else [settings[split]]
        for place in map(str, places):
            try:
                yield from _in_place(path, root, split, place)
            except (OSError, ValueError) as error:  # no name that a file could have
                raise DataError(f"{path.name}: {split} cannot be looked up: {error}") from error


def _in_place(path: Path, root: Path, split: str, place: str) -> Iterator[Path]:
    """Image files of one folder, or of one list of files."""
    start = root / place
    if not start.exists():  # written for a folder beside data.yaml, as Roboflow does
        start = root / place.removeprefix("../")
    if not start.resolve().is_relative_to(root.resolve()):
        raise DataError(f"{path.name}: {split} lies outside the data's folder: {place}")
    if start.is_absolute() and not root.is_absolute():
        start = root / start.resolve().relative_to(root.resolve())
    if start.is_dir():
        yield from sorted(filter(is_photograph, start.rglob("*")))
    elif start.suffix == ".txt" and start.is_file():
        for number, line in enumerate(_lines(start), 1):
            if line.strip():
                yield _listed(start, number, line.strip(), root)
    else:
        raise DataError(f"{path.name}: {split} is no folder and no list of files: {place}")


def _lines(path: Path) -> list[str]:
    """Of a list of files; Windows' editors write a mark before the first."""
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path.name} cannot be read: {_reason(error)}") from error


def _listed(source: Path, number: int, line: str, root: Path) -> Path:
    for start in (root, source.parent):
        file = start / line
        if file.is_file() and file.resolve().is_relative_to(root.resolve()):
            return root / file.resolve().relative_to(root.resolve())
    raise DataError(f"{source.name}, line {number}: there is no image {line} in the data's folder")


def _labels(
    image: Path,
    count: int,
    dimensions: int,
    classes: int,
    size: tuple[int, int],
    bad: list[DataError] | None,
) -> Iterator[dict[str, Any]]:
    """Annotations of an image, in its pixels, without ids."""
    parts = list(image.parts)
    if "images" not in parts[:-1]:
        raise DataError(f"{image.name} lies in no folder `images`, so `labels` cannot be found")
    last = len(parts) - 2 - parts[-2::-1].index("images")
    path = Path(*parts[:last], "labels", *parts[last + 1 :]).with_suffix(".txt")
    if not path.is_file():
        return
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name} is no text: {error}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield _person(line, count, dimensions, classes, size)
        except ValueError as error:
            _report(DataError(f"{path.name}, line {number}: {error}"), bad)


def _person(
    line: str, count: int, dimensions: int, classes: int, size: tuple[int, int]
) -> dict[str, Any]:
    """One line as an annotation; ValueError says what is wrong with it."""
    texts = line.split()
    wanted = 5 + count * dimensions
    if len(texts) != wanted:
        raise ValueError(
            f"class, box and {count} keypoints of {dimensions} are {wanted} numbers; "
            f"got {len(texts)}"
        )
    try:
        values = [float(text) for text in texts]
    except ValueError as error:
        raise ValueError(f"not a number: {str(error).partition(': ')[2]}") from error
    if not all(math.isfinite(value) for value in values):
        raise ValueError("a number is not finite")
    if values[0] not in range(classes):
        raise ValueError(f"class {texts[0]} is none of the {classes} in names")
    if max(values[1:5]) > 1.01 or min(values[1:5]) < -0.01:
        raise ValueError(f"the box is shares of the image, 0 to 1; got {' '.join(texts[1:5])}")
    height, width = size
    center_x, center_y, box_width, box_height = values[1:5]
    keypoints: list[float] = []
    for at in range(5, wanted, dimensions):
        x, y = values[at : at + 2]
        hidden = x < 0 or y < 0 or (x == 0 and y == 0)
        visibility = values[at + 2] if dimensions == 3 else 0.0 if hidden else 2.0
        if visibility not in (0, 1, 2):
            raise ValueError(f"visibility is 0, 1 or 2; got {texts[at + 2]}")
        keypoints += [x * width, y * height, visibility] if visibility else [0.0, 0.0, 0]
    box_px = [
        (center_x - box_width / 2) * width,
        (center_y - box_height / 2) * height,
        box_width * width,
        box_height * height,
    ]
    return {
        "category_id": int(values[0]) + 1,
        "iscrowd": 0,
        "num_keypoints": sum(v > 0 for v in keypoints[2::3]),
        "bbox": [round(value, 3) for value in box_px],
        "area": round(BOX_AREA_SHARE * box_px[2] * box_px[3], 3),
        "keypoints": [round(value, 3) for value in keypoints],
    }


def _keypoint_names(path: Path, settings: dict[str, Any], partners: list[int]) -> list[str]:
    given = settings.get("kpt_names")
    if isinstance(given, dict) and given:  # ultralytics: a list of names for each class
        given = next(iter(given.values()))
    if given is not None:
        names = [str(name) for name in given] if isinstance(given, list) else []
        if len(set(names)) != len(partners) or len(names) != len(partners):
            raise DataError(
                f"{path.name}: kpt_names are {len(partners)} different names; got {given!r}"
            )
        return names
    if tuple(partners) == COCO_17.flip_order:
        return _COCO
    names, pairs = [""] * len(partners), 0
    for k, partner in enumerate(partners):
        if partner > k:
            pairs += 1
            names[k], names[partner] = f"left_{pairs}", f"right_{pairs}"
        elif partner == k:
            names[k] = f"point_{k + 1}"
    return names
