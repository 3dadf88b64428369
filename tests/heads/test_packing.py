"""Packed tensors of foreign files: what does not belong together takes no memory."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heads.checkpoint import load_arrays, save_arrays
from heads.errors import CheckpointError
from heads.packing import as_half, pack_low_rank, pack_sparse, unpack_all
from heads.spec import default_spec

SPEC = default_spec("resnet18+simple")


def low_rank(rows: int, columns: int, shape: list[int]) -> dict[str, Any]:
    left, right = np.zeros((rows, 1), np.float16), np.zeros((1, columns), np.float16)
    return {"lowrank|left": left, "lowrank|right": right, "lowrank|shape": np.array(shape)}


def sparse(entries: int, shape: list[Any]) -> dict[str, Any]:
    mask, values = np.zeros(-(-entries // 8), np.uint8), np.zeros(0, np.float16)
    return {"sparse|mask": mask, "sparse|values": values, "sparse|shape": np.array(shape)}


@pytest.mark.parametrize(
    "parts",
    [
        sparse(8, [1 << 44]),
        sparse(8, [1 << 62, 1 << 62]),
        sparse(8, [-1, -8]),
        sparse(80, [8]),
        sparse(8, [[2, 4]]),
        low_rank(1 << 15, 1 << 15, [1 << 15, 1 << 15]),
        low_rank(2, 3, [2, 4]),
        {"int8|codes": np.zeros((1, 1 << 15), "i1"), "int8|scale": np.zeros(1 << 15, "f4")},
        {"cluster|codes": np.zeros(1 << 15, "u1"), "cluster|values": np.zeros((1, 1 << 15), "f4")},
    ],
    ids=["much", "more", "negative", "bits", "table", "product", "shape", "scales", "values"],
)
def test_sizes_that_do_not_belong_together_are_refused(
    tmp_path: Path, parts: dict[str, Any]
) -> None:
    path = tmp_path / "x.safetensors"
    save_arrays(path, SPEC, {f"w|{name}": array for name, array in parts.items()})
    with pytest.raises(CheckpointError, match=r"x\.safetensors: w is packed in a way that cannot"):
        load_arrays(path)


def test_large_values_are_packed_as_they_are() -> None:
    large = np.array([[0, 1e5], [-2e6, 0]], np.float32)
    for parts in (pack_sparse(large), pack_low_rank(large, np.eye(2, dtype="f4"), (2, 2))):
        back = unpack_all({f"w|{name}": array for name, array in parts.items()})["w"]
        np.testing.assert_array_equal(back, large)


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        (np.array([65504.0], np.float32), np.float16),
        (np.array([65505.0], np.float32), np.float32),
        (np.array([7], np.int64), np.int64),
    ],
)
def test_half_precision_is_taken_where_it_holds_everything(array: Any, kind: Any) -> None:
    assert as_half(array).dtype == kind
