"""The JSON that goes out: field for field what the documentation promises."""

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from heads.classes import count_classes

if TYPE_CHECKING:
    from heads.person import Box, Person
    from heads.skeleton import Skeleton
    from models.backbone import Facts
    from service.inference.answers import (
        ClassifyAnswer,
        DetectAnswer,
        PoseAnswer,
        SegmentAnswer,
    )
    from service.inference.catalogue import ModelInfo

BoxXywh = tuple[float, float, float, float]

PIXEL_DIGITS = 3
SCORE_DIGITS = 5
PHASES = ("decode", "detect", "queue", "network", "total")


class Answer(BaseModel):
    """Root of the schemas."""

    model_config = ConfigDict(frozen=True)


class SkeletonAnswer(Answer):
    """What the keypoints are called and which of them a drawing joins."""

    name: str
    keypoints: list[str]
    edges: list[tuple[int, int]]

    @classmethod
    @lru_cache(maxsize=16)
    def of(cls, skeleton: "Skeleton") -> Self:
        """The names and edges of a skeleton; every answer of a network has the same."""
        return cls(
            name=skeleton.name, keypoints=list(skeleton.keypoints), edges=list(skeleton.edges)
        )


class ImageSize(Answer):
    """Size of the image after EXIF has turned it upright, in pixels."""

    width: int
    height: int


class Keypoint(Answer):
    """A named point in upright image pixels; 0, 0 is the centre of the first pixel."""

    name: str
    x: float
    y: float
    score: float


class PersonAnswer(Answer):
    """One person: where, how sure, and every keypoint."""

    box: BoxXywh = Field(description="Left, top, width and height in pixels.")
    box_score: float | None = Field(description="Null where the client sent the box.")
    score: float = Field(description="Mean keypoint score times the box score.")
    keypoints: list[Keypoint]

    @classmethod
    def of(cls, person: "Person", names: tuple[str, ...]) -> Self:
        """A person whose keypoints have these names."""
        points = np.asarray(person.keypoints, np.float64)
        places = points[:, :2].round(PIXEL_DIGITS).tolist()
        scores = points[:, 2].round(SCORE_DIGITS).tolist()
        # Checked as a whole: a model after the other takes several times as long.
        return cls.model_validate(
            {
                "box": _rounded_box(person.box_xywh),
                "box_score": None
                if person.box_score is None
                else round(person.box_score, SCORE_DIGITS),
                "score": round(person.score, SCORE_DIGITS),
                "keypoints": [
                    {"name": name, "x": x, "y": y, "score": score}
                    for name, (x, y), score in zip(names, places, scores, strict=True)
                ],
            }
        )


class Timing(Answer):
    """Milliseconds by phase; what else was done is in `total` only.

    `queue`: while crops of the photograph waited and none was computed. `network`: while one was
    computed at least.
    """

    decode: float
    detect: float
    queue: float
    network: float
    total: float

    @classmethod
    def of(cls, timing_ms: dict[str, float]) -> Self:
        """Rounded; a phase that was not needed took no time."""
        return cls(**{phase: round(timing_ms.get(phase, 0.0), 3) for phase in PHASES})


class PoseResponse(Answer):
    """Everybody in one photograph."""

    model: str
    skeleton: SkeletonAnswer
    image: ImageSize
    boxes_from: str = Field(description="`client`, `detector:<name>` or `image`.")
    people: list[PersonAnswer]
    timing_ms: Timing

    @classmethod
    def of(cls, answer: "PoseAnswer") -> Self:
        """The JSON of a pipeline's answer."""
        names = answer.skeleton.keypoints
        return cls(
            model=answer.model,
            skeleton=SkeletonAnswer.of(answer.skeleton),
            image=_size_of(answer.image.shape),
            boxes_from=answer.boxes_from,
            people=[PersonAnswer.of(person, names) for person in answer.people],
            timing_ms=Timing.of(answer.timing_ms),
        )


class DetectedBox(Answer):
    """Where a person is, and how sure that is."""

    box: BoxXywh = Field(description="Left, top, width and height in pixels.")
    score: float


class DetectResponse(Answer):
    """Where people are in one photograph, best first."""

    model: str
    image: ImageSize
    boxes: list[DetectedBox]
    timing_ms: Timing

    @classmethod
    def of(cls, answer: "DetectAnswer") -> Self:
        """The JSON of a detector's answer."""
        return cls(
            model=answer.model,
            image=_size_of(answer.image.shape),
            boxes=[
                DetectedBox(box=_rounded_box(box), score=round(score, SCORE_DIGITS))
                for box, score in zip(answer.boxes_xywh, answer.scores, strict=True)
            ],
            timing_ms=Timing.of(answer.timing_ms),
        )


class NetworkTiming(Answer):
    """Milliseconds on the server, by phase, of an answer about a whole image."""

    decode: float
    queue: float
    network: float
    total: float

    @classmethod
    def of(cls, timing_ms: dict[str, float]) -> Self:
        """Rounded."""
        return cls(**{name: round(timing_ms.get(name, 0.0), 3) for name in cls.model_fields})


class ClassAnswer(Answer):
    """A class and how likely it is."""

    index: int
    name: str
    probability: float


class ClassifyResponse(Answer):
    """What one photograph shows, likeliest first."""

    model: str
    image: ImageSize
    classes: list[ClassAnswer]
    random_weights: bool = Field(description="True: the network was never trained.")
    timing_ms: NetworkTiming

    @classmethod
    def of(cls, answer: "ClassifyAnswer") -> Self:
        """The JSON of a classifier's answer."""
        return cls(
            model=answer.model,
            image=_size_of(answer.image.shape),
            classes=[
                ClassAnswer(
                    index=c.index, name=c.name, probability=round(c.probability, SCORE_DIGITS)
                )
                for c in answer.classes
            ],
            random_weights=answer.random_weights,
            timing_ms=NetworkTiming.of(answer.timing_ms),
        )


class ClassShare(Answer):
    """A class that is in the picture, and its share of the pixels."""

    index: int
    name: str
    share: float
    colour: tuple[int, int, int]


class SegmentResponse(Answer):
    """The class of every pixel of one photograph.

    The class map in numpy: `classes, lengths = np.array(runs).T`, then
    `np.repeat(classes, lengths).reshape(height, width)`.
    """

    model: str
    image: ImageSize
    classes: list[ClassShare] = Field(description="Those present, by falling share.")
    runs: list[tuple[int, int]] = Field(
        description="[class index, length] of each run of equal pixels, row after row from the "
        "top left; the lengths add up to width x height."
    )
    random_weights: bool = Field(description="True: the network was never trained.")
    timing_ms: NetworkTiming

    @classmethod
    def of(cls, answer: "SegmentAnswer") -> Self:
        """The JSON of a segmentation network's answer."""
        flat = answer.class_map.ravel()
        counts = count_classes(flat, len(answer.class_names))
        present = [int(i) for i in np.argsort(-counts, kind="stable") if counts[i]]
        starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
        lengths = np.diff(starts, append=flat.size)
        return cls(
            model=answer.model,
            image=_size_of(answer.image.shape),
            classes=[
                ClassShare(
                    index=i,
                    name=answer.class_names[i],
                    share=round(float(counts[i]) / flat.size, SCORE_DIGITS),
                    colour=answer.palette[i],
                )
                for i in present
            ],
            runs=list(zip(flat[starts].tolist(), lengths.tolist(), strict=True)),
            random_weights=answer.random_weights,
            timing_ms=NetworkTiming.of(answer.timing_ms),
        )


class ModelAnswer(Answer):
    """One network: what it does, from which weights, how good, under which licence."""

    name: str
    task: str
    state: str = Field(description="`loaded`, `available` or `weights-missing`.")
    is_default: bool
    backbone: str
    head: str
    input_size: tuple[int, int] | None = Field(description="Height and width of the input.")
    parameters: int | None
    licence: str
    origin: str
    scores: dict[str, float | str]
    command: str | None = Field(description="Gets the weights where they are missing.")
    random_weights: bool = Field(description="True: never trained; its answers mean nothing.")
    runtime: str | None = Field(
        description="What runs it, once loaded: `openvino`, `onnx` or `torch`, and whether `exact` "
        "or `fast`."
    )
    skeleton: SkeletonAnswer | None

    @classmethod
    def of(cls, info: "ModelInfo") -> Self:
        """The JSON of what the engine knows."""
        return cls(
            name=info.name,
            task=info.task,
            state=info.state,
            is_default=info.is_default,
            backbone=info.backbone,
            head=info.head,
            input_size=info.input_size,
            parameters=info.parameters,
            licence=info.licence,
            origin=info.origin,
            scores=info.scores,
            command=info.command,
            random_weights=info.random_weights,
            runtime=info.runtime,
            skeleton=None if info.skeleton is None else SkeletonAnswer.of(info.skeleton),
        )


class ModelsResponse(Answer):
    """All networks; `default` is what POST /pose takes where a request names none."""

    default: str
    detector: str
    runtime: str = Field(description="What runs the default network; see the networks' own.")
    models: list[ModelAnswer]


class ChangeRequest(BaseModel):
    """How a network is loaded."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    force: bool = Field(default=False, description="Also swap it where its file is unchanged.")


class ChangeResponse(Answer):
    """What has been done to a network, and what it is now."""

    change: str = Field(description="`loaded`, `swapped`, `unloaded` or `unchanged`.")
    seconds: float
    model: ModelAnswer | None = Field(description="Null for a network that is unknown by now.")


class BackboneAnswer(Answer):
    """One architecture and what it costs at its published input, without any head."""

    name: str
    paper: str
    input_size: tuple[int, int]
    parameters: int
    multiply_adds: int
    strides: list[int]
    weights_origin: str
    weights_licence: str

    @classmethod
    def of(cls, name: str, facts: "Facts") -> Self:
        """The JSON of a backbone's facts."""
        return cls(
            name=name,
            paper=facts.paper,
            input_size=facts.input_size,
            parameters=facts.parameters,
            multiply_adds=facts.multiply_adds,
            strides=list(facts.strides),
            weights_origin=facts.weights_origin,
            weights_licence=facts.weights_licence,
        )


class BackbonesResponse(Answer):
    """All architectures that a network can be built on."""

    backbones: list[BackboneAnswer]


class Health(Answer):
    """A server that is as asked."""

    status: str


class ProblemAnswer(BaseModel):
    """Why a request was refused (RFC 9457)."""

    model_config = ConfigDict(frozen=True, extra="allow")

    type: str
    title: str
    status: int
    detail: str


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The refusals of a route, for its documentation."""
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": _REFUSALS[status], "content": content} for status in statuses}


_REFUSALS = {
    400: "The image cannot be read, or not be fetched",
    401: "A key is needed",
    403: "The key is not accepted, or may not do this",
    404: "There is no such network",
    406: "No such answer can be written",
    409: "The network's weights are not here or not usable, or it is needed",
    413: "More bytes, pixels or boxes than are accepted",
    415: "This kind of body is not read",
    422: "A parameter is not valid; the answer names it",
    429: "Too much to do, or asked too often; try again after Retry-After seconds",
    500: "A fault of the server; the answer has the id under which its log says more",
    503: "Loading or shutting down; try again after Retry-After seconds",
    504: "Not answered in time",
}


def _size_of(shape: tuple[int, ...]) -> ImageSize:
    return ImageSize(width=shape[1], height=shape[0])


def _rounded_box(box: "Box") -> BoxXywh:
    left, top, width, height = (round(value, PIXEL_DIGITS) for value in box)
    return left, top, width, height
