"""One safetensors file holds a whole network: tensors, spec and provenance. Reading runs no code.

The spec is JSON in the file's metadata under `hrpose`, with the number of its format, so that a
later version can read an earlier file. `hrpose_sha256` is the hash of the tensors and
`hrpose_spec_sha256` that of the JSON; earlier files lack one or both. The format itself has none,
and one flipped bit is another network.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from heads.errors import CheckpointError
from heads.files import write_whole
from heads.packing import as_half, unpack_all
from heads.spec import NetworkSpec
from models.errors import SpecError

if TYPE_CHECKING:
    import torch

    from heads.network import Network

FORMAT = 1
_KEY, _HASH, _SPEC_HASH = "hrpose", "hrpose_sha256", "hrpose_spec_sha256"


def read_spec(path: Path) -> NetworkSpec:
    """The spec in a checkpoint, without its tensors and without torch.

    Raises CheckpointError with the file's name and what is wrong with it.
    """
    return _parse_spec(path, _metadata(path))


def is_checkpoint(path: Path) -> bool:
    """Whether a safetensors file is of ours, rather than bare tensors of another program."""
    return _KEY in _metadata(path)


def _metadata(path: Path) -> dict[str, str]:
    try:
        with safe_open(path, framework="np") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error


def load_checkpoint(path: Path) -> tuple[NetworkSpec, dict[str, "torch.Tensor"]]:
    """Spec and float32 tensors of a checkpoint; CheckpointError where it is damaged or foreign."""
    import torch

    spec, arrays = load_arrays(path)
    state = {}
    for name, array in arrays.items():
        tensor = torch.from_numpy(array)
        state[name] = tensor.float() if tensor.is_floating_point() else tensor
    return spec, state


def load_arrays(path: Path) -> tuple[NetworkSpec, dict[str, npt.NDArray[Any]]]:
    """Spec and unpacked tensors of a checkpoint, as they are stored and without torch.

    Raises CheckpointError where it is damaged or foreign, or a tensor of it is not finite.
    """
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error
    except (TypeError, AttributeError) as error:
        raise CheckpointError(f"{path.name} has tensors that numpy lacks: {error}") from error
    for name, array in stored.items():  # ml_dtypes, where it is imported, adds kinds to numpy's
        if array.dtype.isbuiltin != 1:
            raise CheckpointError(
                f"{path.name} has tensors that numpy lacks: {name}, {array.dtype}"
            )
    spec = _parse_spec(path, metadata)
    if _HASH in metadata and metadata[_HASH] != _hash(stored):
        raise CheckpointError(
            f"{path.name} is damaged: its tensors are not those that were written"
        )
    try:
        arrays = unpack_all(stored)
    except CheckpointError as error:
        raise CheckpointError(f"{path.name}: {error}") from error
    if broken := [name for name, array in arrays.items() if not np.isfinite(array).all()]:
        raise CheckpointError(f"{path.name}: {broken[0]} has values that are not finite")
    return spec, arrays


def load_network(path: Path) -> "Network":
    """The network in a checkpoint, in eval mode; a tensor too many or too few is an error."""
    from heads.network import build
    from models.weights import load_strict

    spec, state = load_checkpoint(path)
    try:
        network = build(spec)
    except SpecError as error:
        raise CheckpointError(f"{path.name} cannot be built: {error}") from error
    load_strict(network, state, path.name)
    return network.eval()


def save_checkpoint(
    path: Path, spec: NetworkSpec, tensors: "Mapping[str, torch.Tensor]", *, half: bool = False
) -> None:
    """Writes a checkpoint whole or not at all: a crash or a full disk leaves the old file.

    half: stores floating tensors as float16, half the size, but for those with larger values.
    """
    arrays = {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
    if half:
        arrays = {name: as_half(array) for name, array in arrays.items()}
    save_arrays(path, spec, arrays)


def save_arrays(path: Path, spec: NetworkSpec, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Writes a checkpoint of arrays as they are, packed ones included; whole or not at all.

    The same network is the same file, byte for byte.
    """
    from safetensors.numpy import save

    # The format has rows before columns; other orders in memory would be written as they lie.
    ordered = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    content = json.dumps({"format": FORMAT, "spec": spec.model_dump(mode="json")})
    metadata = {_KEY: content, _HASH: _hash(ordered), _SPEC_HASH: _text_hash(content)}
    try:
        write_whole(path, _sorted_metadata(save(ordered, metadata=metadata)))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path.name} cannot be written: {error}") from error


def _sorted_metadata(file: bytes) -> bytes:
    """A safetensors file whose metadata the library wrote in an order of chance, in a fixed one."""
    start = 8 + int.from_bytes(file[:8], "little")
    header = json.loads(file[8:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    return b"".join([len(text).to_bytes(8, "little"), text, file[start:]])


def _hash(arrays: Mapping[str, npt.NDArray[Any]]) -> str:
    """Of names, kinds, shapes and values."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _text_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _parse_spec(path: Path, metadata: Mapping[str, str]) -> NetworkSpec:
    if _KEY not in metadata:
        raise CheckpointError(
            f"{path.name} is a safetensors file of another program: it has no `{_KEY}` metadata"
        )
    if _SPEC_HASH in metadata and metadata[_SPEC_HASH] != _text_hash(metadata[_KEY]):
        raise CheckpointError(f"{path.name} is damaged: its spec is not the one that was written")
    try:
        content = json.loads(metadata[_KEY])
        if content["format"] > FORMAT:
            raise CheckpointError(
                f"{path.name} has format {content['format']}; this version reads up to {FORMAT}"
            )
        return NetworkSpec.model_validate(content["spec"])
    except (ValueError, KeyError, TypeError, RecursionError, ValidationError) as error:
        raise CheckpointError(f"{path.name} has damaged metadata: {error}") from error


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    if isinstance(error, FileNotFoundError):
        return CheckpointError(f"there is no file {path.name}")
    return CheckpointError(f"{path.name} is damaged, truncated or no checkpoint: {error}")
