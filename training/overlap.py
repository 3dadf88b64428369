"""Photographs that stand in two data sets: what is measured on one was learned from the other."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from training.annotations import read_coco
from training.doctor import Examined
from training.findings import Finding


def with_shared(data: Examined, other: Path, images: Path | None = None) -> Examined:
    """`data`, and a warning for each photograph of it that another data set has, whatever its name.

    other: COCO annotations.  images: their folder; left out, that of the file.
    The same is what has the same bytes: one that was cut or compressed again is not found. Only
    files of equal length are read. Raises DataError where `other` cannot be read.
    """
    entries = read_coco(other)["images"]
    names = (str(e["file_name"]) for e in entries if isinstance(e, dict) and "file_name" in e)
    theirs = {name: (images or other.parent) / name for name in names}
    ours = {key: data.folder / name for key, name in data.files.items()}
    found = [
        Finding(
            level="warning",
            kind="shared-image",
            reason=f"is {name} of {other.name}, byte for byte",
            file=data.files[key],
            image=key,
        )
        for key, name in _equal(ours, theirs)
    ]
    findings = sorted((*data.report.findings, *found), key=lambda finding: finding.rank)
    return replace(data, report=data.report.model_copy(update={"findings": tuple(findings)}))


def _equal(ours: Mapping[Any, Path], theirs: Mapping[str, Path]) -> Iterator[tuple[Any, str]]:
    """Keys of ours with one of theirs that has the same bytes; missing files are no match."""
    lengths = set(map(_length, ours.values())) & set(map(_length, theirs.values())) - {None}
    known = {_digest(path): name for name, path in theirs.items() if _length(path) in lengths}
    for key, path in ours.items():
        if _length(path) in lengths and (name := known.get(_digest(path))):
            yield key, name


def _length(path: Path) -> int | None:
    """Bytes; None where there is no file."""
    return path.stat().st_size if path.is_file() else None


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
