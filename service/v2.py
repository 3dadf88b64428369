"""Tensors of the Open Inference Protocol, version 2: what KServe and Triton speak over HTTP.

A request is a JSON object that names its tensors. Their values stand in the object, or after it in
the body (the extension `binary_tensor_data`): then the header Inference-Header-Content-Length says
where the object ends, and `binary_data_size` how many bytes each tensor has. A BYTES element is in
the body its length, four bytes with the lowest first, and itself; in JSON it is text, here base64.
https://github.com/kserve/open-inference-protocol
"""

import base64
import binascii
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from service.errors import InvalidParameter, TooLarge
from service.inference.answers import ClassifyAnswer, PoseAnswer, SegmentAnswer
from service.parameters import Pair, check_parts
from service.settings import MIB

INPUT = "image"

MAX_IMAGES = 16
"""Images in one request; they are looked at one after the other."""

HEADER_LENGTH = "Inference-Header-Content-Length"
EXTENSIONS = ("binary_tensor_data",)

Array = npt.NDArray[np.float32] | npt.NDArray[np.int32] | npt.NDArray[np.uint8]

_DATATYPES = {"float32": "FP32", "int32": "INT32", "uint8": "UINT8"}

_PEOPLE = {
    "keypoints": ("FP32", (-1, -1, 3)),
    "boxes": ("FP32", (-1, 4)),
    "scores": ("FP32", (-1,)),
    "people_per_image": ("INT32", (-1,)),
}

OUTPUTS: Mapping[str, Mapping[str, tuple[str, tuple[int, ...]]]] = {
    "pose": _PEOPLE,
    "people": _PEOPLE,
    "classify": {"classes": ("INT32", (-1, -1)), "probabilities": ("FP32", (-1, -1))},
    "segment": {"class_map": ("UINT8", (-1, -1))},
}
"""Datatype and shape of each output by a network's task; -1 is any number."""

OPTIONS: Mapping[str, tuple[str, ...]] = {
    "pose": ("threshold", "max_people", "flip_test"),
    "people": ("threshold", "max_people", "flip_test"),
    "classify": ("top_k",),
    "segment": (),
}
"""What a request's parameters may hold, by task."""


@dataclass(frozen=True)
class InferRequest:
    """What was asked: images, options, and which outputs in which form.

    outputs: wanted names, each with whether its values go after the JSON; None wants all.
    binary: the form of an output that says none itself.
    """

    id: str | None
    images: tuple[bytes, ...]
    pairs: tuple[Pair, ...]
    outputs: Mapping[str, bool | None] | None = None
    binary: bool = False


@dataclass(frozen=True)
class Written:
    """An answer's body; header_length: of its JSON, None where that is all there is."""

    body: bytes
    header_length: int | None


def read_request(body: bytes, header_length: str | None) -> InferRequest:
    """The request in a body; InvalidParameter says what does not fit. Slow for large bodies."""
    text, rest = _split(body, header_length)
    check_parts("body", (text,))
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidParameter("body", "the request is not JSON") from None
    content = _an(dict, content, "the request")
    inputs = _an(list, content.get("inputs"), "inputs")
    if len(inputs) != 1:
        raise InvalidParameter("inputs", f"one input is read, {INPUT}; got {len(inputs)}")
    images = _read_images(_an(dict, inputs[0], "an input"), rest)
    parameters = dict(_parameters(content))
    binary = _is_true(parameters.pop("binary_data_output", None), "binary_data_output")
    given = content.get("id")
    return InferRequest(
        id=None if given is None else _an(str, given, "id"),
        images=images,
        pairs=tuple(parameters.items()),
        outputs=_read_outputs(content.get("outputs")),
        binary=bool(binary),
    )


def write_answer(
    model: str, request: InferRequest, tensors: Mapping[str, Array], max_bytes: int
) -> Written:
    """The answer's body: JSON, and after it the values of those outputs that want it so.

    request: see `check_outputs`. Raises TooLarge beyond max_bytes.
    """
    wanted = dict.fromkeys(tensors, None) if request.outputs is None else request.outputs
    outputs: list[dict[str, Any]] = []
    values: list[bytes] = []
    for name, binary in wanted.items():
        array = tensors[name]
        output: dict[str, Any] = {
            "name": name,
            "datatype": _DATATYPES[array.dtype.name],
            "shape": list(array.shape),
        }
        as_bytes = request.binary if binary is None else binary
        # As JSON a number takes two bytes at least: what cannot fit is not written first.
        least = array.nbytes if as_bytes else 2 * array.size
        if least > max_bytes:
            raise _too_large(least, max_bytes)
        if as_bytes:
            data = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
            output["parameters"] = {"binary_data_size": len(data)}
            values.append(data)
        else:
            output["data"] = array.ravel().tolist()
        outputs.append(output)
    content: dict[str, Any] = {"model_name": model, "outputs": outputs}
    if request.id is not None:
        content["id"] = request.id
    header = json.dumps(content).encode()
    body = b"".join((header, *values))
    if len(body) > max_bytes:
        raise _too_large(len(body), max_bytes)
    return Written(body, len(header) if values else None)


def _too_large(size: int, max_bytes: int) -> TooLarge:
    return TooLarge(
        f"the answer has {size} bytes or more; {max_bytes} are written. Ask for binary outputs, "
        "or send a smaller image",
        f"max_upload_mb = {max_bytes / MIB:g}",
    )


@dataclass(frozen=True)
class Found:
    """Outputs by name, and how they came about.

    timing_ms: milliseconds by phase, over all images.  people: in all images; None: not asked for.
    """

    tensors: dict[str, Array]
    timing_ms: dict[str, float]
    people: int | None = None


@dataclass
class PeopleTensors:
    """Gathers the people of image after image; pictures are not kept."""

    keypoints: list[npt.NDArray[np.float32]] = field(default_factory=list)
    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    names: int = 0
    timings: list[Mapping[str, float]] = field(default_factory=list)

    def add(self, answer: PoseAnswer) -> None:
        """Takes everybody in one more image."""
        self.names = len(answer.skeleton.keypoints)
        self.counts.append(len(answer.people))
        self.timings.append(answer.timing_ms)
        for person in answer.people:
            self.keypoints.append(person.keypoints)
            self.boxes.append(person.box_xywh)
            self.scores.append(person.score)

    def found(self) -> Found:
        """The people of all images in a row."""
        tensors: dict[str, Array] = {
            "keypoints": np.array(self.keypoints, np.float32).reshape(-1, self.names, 3),
            "boxes": np.array(self.boxes, np.float32).reshape(-1, 4),
            "scores": np.array(self.scores, np.float32),
            "people_per_image": np.array(self.counts, np.int32),
        }
        return Found(tensors, _added(self.timings), len(self.scores))


def found_classes(answers: Sequence[ClassifyAnswer]) -> Found:
    """The likeliest classes of each image and their probabilities, [N, top_k]."""
    tensors: dict[str, Array] = {
        "classes": np.array([[c.index for c in a.classes] for a in answers], np.int32),
        "probabilities": np.array(
            [[c.probability for c in a.classes] for a in answers], np.float32
        ),
    }
    return Found(tensors, _added([answer.timing_ms for answer in answers]))


def found_segments(answer: SegmentAnswer) -> Found:
    """The class of every pixel, [H, W]."""
    return Found({"class_map": answer.class_map}, _added([answer.timing_ms]))


def _added(timings: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Milliseconds by phase, of several images together."""
    names = dict.fromkeys(name for timing in timings for name in timing)
    return {name: sum(timing.get(name, 0.0) for timing in timings) for name in names}


def check_options(pairs: Sequence[Pair], task: str) -> tuple[Pair, ...]:
    """The same pairs; InvalidParameter for a name that networks of the task do not take."""
    for name, _ in pairs:
        if name not in OPTIONS[task]:
            known = ", ".join(("binary_data_output", *OPTIONS[task]))
            raise InvalidParameter(
                name[:60], f"there is no parameter {name[:60]!r} for {task}; known: {known}"
            )
    return tuple(pairs)


def check_outputs(request: InferRequest, task: str) -> None:
    """InvalidParameter where an output is wanted that networks of the task do not have."""
    for name in request.outputs or ():
        if name not in OUTPUTS[task]:
            known = ", ".join(OUTPUTS[task])
            raise InvalidParameter("outputs", f"there is no output {name[:60]!r}; known: {known}")


def _split(body: bytes, header_length: str | None) -> tuple[bytes, bytes]:
    """The JSON and what comes after it."""
    if header_length is None:
        return body, b""
    length = int(header_length) if header_length.isdecimal() and len(header_length) < 20 else -1
    if not 0 < length <= len(body):
        raise InvalidParameter(
            HEADER_LENGTH, f"{HEADER_LENGTH} should be 1 to {len(body)}, the body's bytes"
        )
    return body[:length], body[length:]


def _read_images(tensor: Mapping[str, Any], rest: bytes) -> tuple[bytes, ...]:
    """Image files of the one input; rest: the bytes after the JSON."""
    name, datatype = tensor.get("name"), tensor.get("datatype")
    shape: Any = tensor.get("shape")
    if name != INPUT:
        raise InvalidParameter("inputs", f"there is no input {name!r:.60}; known: {INPUT}")
    if datatype != "BYTES":
        raise InvalidParameter(INPUT, f"{INPUT} is of BYTES, image files; got {datatype!r:.60}")
    numbers = isinstance(shape, list) and all(type(n) is int and n > 0 for n in shape)
    # [N, 1] is how some clients write a batch of strings.
    if not numbers or len(shape) not in (1, 2) or math.prod(shape[1:]) != 1:
        raise InvalidParameter(INPUT, f"{INPUT} has the shape [N], N images; got {shape!r:.60}")
    if shape[0] > MAX_IMAGES:
        raise TooLarge(f"{shape[0]} images; at most {MAX_IMAGES} are taken", f"{MAX_IMAGES} images")
    size = _parameters(tensor).get("binary_data_size")
    if size is not None and tensor.get("data") is not None:
        raise InvalidParameter(INPUT, "binary_data_size and data: an input has one of them")
    if size is None:
        if rest:
            raise InvalidParameter(INPUT, f"{len(rest)} bytes after the JSON belong to no input")
        found = [_from_base64(text) for text in _flat(tensor.get("data"))]
    elif type(size) is not int or size != len(rest):
        raise InvalidParameter(
            INPUT, f"binary_data_size is {size!r:.30}; {len(rest)} bytes came after the JSON"
        )
    else:
        found = _elements(rest)
    if len(found) != shape[0]:
        raise InvalidParameter(INPUT, f"the shape has {shape[0]} images; {len(found)} came")
    return tuple(found)


def _flat(data: Any) -> list[Any]:
    """The elements of a tensor, whose rows may be lists of their own."""
    rows: list[Any] = _an(list, data, "data")
    return [element for row in rows for element in (row if isinstance(row, list) else [row])]


def _from_base64(text: Any) -> bytes:
    try:
        return base64.b64decode(_an(str, text, "an element of data"), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidParameter(INPUT, "an element of data is not base64") from None


def _elements(data: bytes) -> list[bytes]:
    """The strings of a BYTES tensor as they lie in a body."""
    found: list[bytes] = []
    at = 0
    while at < len(data):
        start = at + 4
        at = start + int.from_bytes(data[at:start], "little")
        if start > len(data) or at > len(data) or len(found) == MAX_IMAGES:
            raise InvalidParameter(INPUT, "the bytes after the JSON are no BYTES tensor")
        found.append(data[start:at])
    return found


def _read_outputs(outputs: Any) -> dict[str, bool | None] | None:
    if outputs is None or outputs == []:
        return None
    found: dict[str, bool | None] = {}
    for output in _an(list, outputs, "outputs"):
        name = _an(str, _an(dict, output, "an output").get("name"), "an output's name")
        found[name] = _is_true(_parameters(output).get("binary_data"), "binary_data")
    return found


def _parameters(content: Mapping[str, Any]) -> dict[str, Any]:
    given = content.get("parameters")
    found: dict[str, Any] = {} if given is None else _an(dict, given, "parameters")
    return found


def _is_true(value: Any, name: str) -> bool | None:
    return None if value is None else bool(_an(bool, value, name))


def _an(kind: type, value: Any, name: str) -> Any:
    """The value, if it is of that kind of JSON."""
    if not isinstance(value, kind):
        words = {dict: "an object", list: "an array", str: "a string", bool: "true or false"}
        raise InvalidParameter(name, f"{name} should be {words[kind]}; got {value!r:.60}")
    return value
