"""Tensors stored smaller than they are: 8-bit, clustered, sparse or of low rank.

A packed tensor stands in a checkpoint as parts named `<tensor>|<kind>|<part>`; reading gives back
an ordinary float32 tensor, so whatever loads checkpoints loads packed ones. How weights are chosen
for packing is in `training.compress`; Deep Compression, arXiv:1510.00149, is the idea's source.

    kind      parts                                   the tensor is
    --------  --------------------------------------  -------------------------------------------
    int8      codes int8 [O, ...], scale [O]          codes * scale, one scale an output channel
    cluster   codes uint8 [O, ...], values [<= 256]   values[codes]
    sparse    mask bits, values, shape                values where the mask is 1, else 0
    lowrank   left [O, r], right [r, n], shape        left @ right
"""

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt

from heads.errors import CheckpointError

Kind = Literal["int8", "cluster", "sparse", "lowrank"]
Array = npt.NDArray[np.generic]
FloatArray = npt.NDArray[np.float32]

_BETWEEN = "|"

_MAX_ENTRIES = 2**29
"""Of all unpacked tensors together: 2 GiB, several times the largest backbone's."""


def as_half(array: Array) -> Array:
    """As float16 where every value fits, else as it is; integers stay too."""
    fits = np.issubdtype(array.dtype, np.floating) and np.all(np.abs(array) <= _LARGEST_HALF)
    return array.astype(np.float16) if fits else array


_LARGEST_HALF = float(np.finfo(np.float16).max)


def pack_int8(codes: npt.NDArray[np.int8], scale: FloatArray) -> dict[str, Array]:
    """Parts of a tensor of 8-bit codes with a scale for each output channel."""
    return {"int8|codes": codes, "int8|scale": scale}


def pack_clusters(codes: npt.NDArray[np.uint8], values: FloatArray) -> dict[str, Array]:
    """Parts of a tensor whose entries are among at most 256 values."""
    return {"cluster|codes": codes, "cluster|values": values}


def pack_sparse(tensor: FloatArray) -> dict[str, Array]:
    """Parts of a tensor that is mostly 0: a bit an entry, and the others as float16."""
    mask = tensor != 0
    return {
        "sparse|mask": np.packbits(mask.ravel()),
        "sparse|values": as_half(tensor[mask]),
        "sparse|shape": np.array(tensor.shape, np.int64),
    }


def pack_low_rank(left: FloatArray, right: FloatArray, shape: tuple[int, ...]) -> dict[str, Array]:
    """Parts of a tensor that is a product of a tall and a wide matrix, stored as float16."""
    return {
        "lowrank|left": as_half(left),
        "lowrank|right": as_half(right),
        "lowrank|shape": np.array(shape, np.int64),
    }


def unpack_all(stored: Mapping[str, Array]) -> dict[str, Array]:
    """The tensors of a checkpoint from what is stored; those that are not packed stay as they are.

    Raises CheckpointError for parts that do not belong together.
    """
    tensors: dict[str, Array] = {}
    packed: dict[str, dict[str, Array]] = {}
    for name, array in stored.items():
        tensor, between, part = name.partition(_BETWEEN)
        if between:
            packed.setdefault(tensor, {})[part] = array
        else:
            tensors[name] = array
    left = _MAX_ENTRIES
    for name, parts in packed.items():
        if name in tensors:
            raise CheckpointError(f"{name} is stored twice, packed and plain")
        try:
            tensors[name] = _unpack(parts, left)
        except (KeyError, ValueError, IndexError) as error:
            raise CheckpointError(f"{name} is packed in a way that cannot be read") from error
        left -= tensors[name].size
    return tensors


def _unpack(parts: Mapping[str, Array], most: int) -> FloatArray:
    """One tensor of at most so many entries, which are counted before there is memory for them."""
    kind = next(iter(parts)).partition(_BETWEEN)[0]
    part = {name.removeprefix(f"{kind}{_BETWEEN}"): array for name, array in parts.items()}
    match kind:
        case "int8":
            codes, scale = part["codes"], part["scale"].astype(np.float32)
            _expect(scale.shape == codes.shape[:1] and codes.size <= most)
            by_channel = scale.reshape(-1, *[1] * (codes.ndim - 1))
            return np.asarray(codes.astype(np.float32) * by_channel, np.float32)
        case "cluster":
            codes, values = part["codes"], part["values"].astype(np.float32)
            _expect(values.ndim == 1 and codes.size <= most)
            return np.asarray(values[codes.astype(np.intp)])
        case "sparse":
            shape, bits = _shape(part["shape"], most), part["mask"].astype(np.uint8)
            _expect(bits.shape == (-(-math.prod(shape) // 8),))
            tensor = np.zeros(math.prod(shape), np.float32)
            mask = np.unpackbits(bits, count=tensor.size).astype(bool)
            tensor[mask] = part["values"].astype(np.float32)
            return tensor.reshape(shape)
        case "lowrank":
            shape = _shape(part["shape"], most)
            left, right = part["left"].astype(np.float32), part["right"].astype(np.float32)
            _expect(left.ndim == right.ndim == 2)
            _expect(len(left) * right.shape[1] == math.prod(shape))
            with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused
                return np.asarray((left @ right).reshape(shape), np.float32)
        case _:
            raise KeyError(kind)


def _shape(stored: Array, most: int) -> list[int]:
    _expect(stored.ndim == 1)
    shape = [int(side) for side in stored.astype(np.int64)]
    _expect(all(side >= 0 for side in shape) and math.prod(shape) <= most)
    return shape


def _expect(fits: bool) -> None:
    if not fits:
        raise ValueError("sizes that do not belong together")
