"""One ONNX file holds a whole network for serving: graph, weights and spec. Read without torch.

The graph reads `images`, RGB uint8 [N, H, W, 3], and answers float32 maps by name, normalisation
inside. Two entries of the file's metadata are ours: `hrpose`, JSON with the spec as in a
checkpoint, and last in the file `hrpose_sha256`, the hash of every byte before it. An ONNX file is
a protobuf message, and what is appended to one is merged into it; so neither reading nor writing
the entries needs a protobuf library, and any ONNX tool reads the file.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from heads.errors import CheckpointError
from heads.spec import NetworkSpec

FORMAT = 1

WHILE_STDIN = "--while-stdin"
"""First argument of `python -m heads.export` by a process that it is not to outlive: its standard
input ends with that one."""

EXPORTER = 4
"""Counts changes of what `heads.export` writes; a cached export of another number is made anew."""

INPUT = "images"

OUTPUT = "output"
"""The name of the maps of a network that answers one array."""

_SPEC, _HASH = b"hrpose", b"hrpose_sha256"
_METADATA = 14 << 3 | 2  # ModelProto.metadata_props, a message of two strings
_GRAPH = bytes([7 << 3 | 2])  # ModelProto.graph
_INITIALIZER = bytes([5 << 3 | 2])  # GraphProto.initializer, a TensorProto of the four below
_FLOAT, _NAME, _RAW_DATA = b"\x10\x01", bytes([8 << 3 | 2]), bytes([9 << 3 | 2])
_HASH_START = bytes([_METADATA, 81, 0x0A, len(_HASH)]) + _HASH + bytes([0x12, 64])
_HASH_LENGTH = len(_HASH_START) + 64


def add_spec(graph: bytes, spec: NetworkSpec) -> bytes:
    """An ONNX file of ours from a graph as torch writes it."""
    content = {"format": FORMAT, "exporter": EXPORTER, "spec": spec.model_dump(mode="json")}
    file = graph + _entry(_SPEC, json.dumps(content).encode())
    return file + _entry(_HASH, hashlib.sha256(file).hexdigest().encode())


def add_tensors(graph: bytes, tensors: Mapping[str, npt.NDArray[np.float32]]) -> bytes:
    """The graph with these tensors in it, by name."""
    parts = [graph]
    for name, array in tensors.items():
        dims = b"".join(b"\x08" + _varint(side) for side in array.shape)
        data = np.ascontiguousarray(array, "<f4").tobytes()
        head = dims + _FLOAT + _NAME + _varint(len(name.encode())) + name.encode()
        tensor = head + _RAW_DATA + _varint(len(data)) + data
        inner = _INITIALIZER + _varint(len(tensor)) + tensor
        parts.append(_GRAPH + _varint(len(inner)) + inner)
    return b"".join(parts)


def check_form(path: Path) -> None:
    """CheckpointError for what `hrpose export` writes for OpenVINO's own tools."""
    if path.suffix in (".xml", ".bin") and path.is_file():
        raise CheckpointError(
            f"{path.name} does not say what network it holds; take what `hrpose export --format "
            "onnx` writes, which OpenVINO runs as well"
        )


def read_onnx_spec(path: Path) -> NetworkSpec:
    """The spec of a whole and undamaged ONNX file of ours.

    Raises CheckpointError with the file's name and what is wrong with it.
    """
    try:
        file = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path.name} cannot be read: {error.strerror}") from error
    end = len(file) - 64
    if file[end - len(_HASH_START) : end] != _HASH_START:
        raise CheckpointError(
            f"{path.name} is damaged, truncated or no export of hrpose; make one: "
            "hrpose export NAME --format onnx (without --decode, whose file is for elsewhere)"
        )
    if hashlib.sha256(file[:-_HASH_LENGTH]).hexdigest().encode() != file[end:]:
        raise CheckpointError(f"{path.name} is damaged: its hash does not fit")
    try:
        content = json.loads(dict(_metadata(file))[_SPEC])
        if content["format"] > FORMAT:
            raise CheckpointError(
                f"{path.name} has format {content['format']}; this version reads up to {FORMAT}"
            )
        return NetworkSpec.model_validate(content["spec"])
    except (ValueError, LookupError, TypeError, RecursionError, ValidationError) as error:
        raise CheckpointError(f"{path.name} has damaged metadata: {error}") from error


def _entry(key: bytes, value: bytes) -> bytes:
    body = b"\x0a" + _varint(len(key)) + key + b"\x12" + _varint(len(value)) + value
    return bytes([_METADATA]) + _varint(len(body)) + body


def _varint(value: int) -> bytes:
    digits = bytearray()
    while value >= 128:
        digits.append(value & 127 | 128)
        value >>= 7
    return bytes([*digits, value])


def _metadata(file: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a model's metadata."""
    for tag, body in _fields(file):
        if tag == _METADATA:
            parts = dict(_fields(body))
            yield parts[0x0A], parts[0x12]


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """(tag, content) of a protobuf message's fields; numbers have no content."""
    at = 0
    while at < len(message):
        tag, at = _read_varint(message, at)
        match tag & 7:
            case 0:
                length = _read_varint(message, at)[1] - at
            case 2:
                length, at = _read_varint(message, at)
            case 1:
                length = 8
            case 5:
                length = 4
            case wire:
                raise ValueError(f"no protobuf message: wire type {wire}")
        yield tag, message[at : at + length] if tag & 7 == 2 else b""
        at += length


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    """The number that starts at a byte, and the byte after it."""
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
