"""What a client may ask for beside the image, checked by value and by name.

The same models read query parameters and form fields (text) and JSON (values); a name that is not
known is refused, so that a typo is never silently ignored.
"""

import json
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)

from heads.person import Box
from heads.validation import reason_of
from service.errors import InvalidParameter, TooLarge
from service.inference.answers import MAX_COORDINATE_PX, PoseOptions

Pair = tuple[str, Any]
"""A name and its value, in the order sent; names may repeat."""


def _refuse_bool(value: Any) -> Any:
    """JSON's true is no number, though Python takes it for 1."""
    if isinstance(value, bool):
        raise ValueError("Input should be a number")
    return value


MAX_PARTS = 100_000
"""Of JSON: far more than the boxes of a photograph have, far less than 16 MiB of `[],`. Those take
hundreds of MiB and hold the interpreter for seconds before anything can refuse them."""


def check_parts(parameter: str, texts: Iterable[bytes | str]) -> None:
    """Refuses JSON of too many parts before it is read. Base64 counts as one."""
    parts = 0
    for text in texts:
        data = text.encode(errors="surrogatepass") if isinstance(text, str) else text
        parts += sum(data.count(mark) for mark in b",[{")
    if parts > MAX_PARTS:
        raise InvalidParameter(
            parameter, f"{parameter}: JSON of at most {MAX_PARTS} parts is read; got {parts}"
        )


def read_boxes(values: list[Any]) -> list[Any]:
    """Each value is a box or a list of boxes, as JSON text or read already."""
    boxes: list[Any] = []
    for value in values:
        if isinstance(value, str):
            value = _read_json(value)
        if not isinstance(value, list):
            raise ValueError("Input should be a list of [left, top, width, height]")
        is_box = bool(value) and not any(isinstance(part, list) for part in value)
        boxes += [value] if is_box else value
    return boxes


def _read_json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("Input should be JSON: [[left, top, width, height], ...]") from None


_A_NUMBER = BeforeValidator(_refuse_bool)
"""Stands last, and bounds first: behind it they would not come into the OpenAPI document."""
_Score = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), _A_NUMBER]
_Coordinate = Annotated[
    float, Field(ge=-MAX_COORDINATE_PX, le=MAX_COORDINATE_PX, allow_inf_nan=False), _A_NUMBER
]
_Extent = Annotated[float, Field(gt=0, le=MAX_COORDINATE_PX, allow_inf_nan=False), _A_NUMBER]
_BoxXywh = tuple[_Coordinate, _Coordinate, _Extent, _Extent]
_Count = Annotated[int, Field(ge=1), _A_NUMBER]
_Name = Annotated[str, StringConstraints(min_length=1, max_length=100)]


class Parameters(BaseModel):
    """Root of what routes take beside the image."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def of(cls, pairs: Iterable[Pair], max_people: int) -> Self:
        """Checks what was sent; max_people is the server's limit, and the default.

        Raises InvalidParameter with the name of the parameter, or TooLarge for too many boxes.
        """
        gathered = cls._gather(pairs)
        boxes = gathered.get("boxes")
        if boxes is not None and len(boxes) > max_people:
            raise TooLarge(
                f"{len(boxes)} boxes; at most {max_people} are taken", f"max_people = {max_people}"
            )
        try:
            parameters = cls.model_validate(gathered)
        except ValidationError as error:
            raise _invalid(error) from None
        parameters._check(max_people)
        return parameters

    def _check(self, max_people: int) -> None:
        """Refuses what the server's limit does not allow."""

    @classmethod
    def _gather(cls, pairs: Iterable[Pair]) -> dict[str, Any]:
        """Values by name; an empty text or null is as good as not sent, only boxes may repeat."""
        gathered: dict[str, Any] = {}
        for name, value in pairs:
            # Here, not by the model, which would gather all of a million names first.
            if name in ("image", "image_url"):
                raise InvalidParameter(name, f"{name} is sent in the body, not in the query")
            if name not in cls.model_fields:
                known = ", ".join(("image", *cls.model_fields))
                raise InvalidParameter(name, f"there is no parameter {name[:60]!r}; known: {known}")
            if value is None or value == "":
                continue
            if name == "boxes":
                gathered.setdefault(name, []).append(value)
            elif name in gathered:
                raise InvalidParameter(name, f"{name} is given more than once")
            else:
                gathered[name] = value
        if "boxes" in gathered:
            check_parts("boxes", (text for text in gathered["boxes"] if isinstance(text, str)))
            try:
                gathered["boxes"] = read_boxes(gathered["boxes"])
            except ValueError as error:
                raise InvalidParameter("boxes", f"boxes: {error}") from None
        return gathered


class PeopleParameters(Parameters):
    """What both POST /pose and POST /detect take."""

    threshold: _Score | None = Field(
        default=None, description="People with a lower score are left out; 0 to 1."
    )
    max_people: _Count | None = Field(
        default=None,
        description="At most so many people, best first; of boxes that are sent each is answered.",
    )

    def _check(self, max_people: int) -> None:
        if self.max_people is not None and self.max_people > max_people:
            raise InvalidParameter("max_people", f"max_people: at most {max_people} are answered")


class PoseParameters(PeopleParameters):
    """What POST /pose takes."""

    boxes: tuple[_BoxXywh, ...] | None = Field(
        default=None,
        description="People to look at, [[left, top, width, height], ...] in upright pixels; "
        "one person is answered for each, in this order; fewer with a threshold.",
    )
    flip_test: bool = Field(
        default=False, description="Also look at the mirrored crop: slower, slightly more exact."
    )
    model: _Name = Field(default="default", description="A network of GET /models.")

    def options(self, max_people: int) -> PoseOptions:
        """The same for the pipeline; max_people where the client names none."""
        boxes: tuple[Box, ...] | None = self.boxes
        return PoseOptions(boxes, self.threshold, self.max_people or max_people, self.flip_test)


class DetectParameters(PeopleParameters):
    """What POST /detect takes."""

    model: _Name | None = Field(
        default=None,
        description="A network of GET /models with the task `people`; else the detector.",
    )


class ClassifyParameters(Parameters):
    """What POST /classify takes."""

    model: _Name | None = Field(
        default=None,
        description="A network of GET /models with the task `classify`; else the server's default "
        "network if it is one, or the embedded one.",
    )
    top_k: Annotated[int, Field(ge=1, le=1000), _A_NUMBER] = Field(
        default=5, description="So many classes, likeliest first."
    )


class SegmentParameters(Parameters):
    """What POST /segment takes."""

    model: _Name | None = Field(
        default=None,
        description="A network of GET /models with the task `segment`; else the server's default "
        "network if it is one, or the first at hand.",
    )
    view: Literal["classes", "overlay"] = Field(
        default="classes",
        description="What a PNG shows: class indices with a palette, or the picture under colours. "
        "A JPEG always shows the latter.",
    )


def _invalid(error: ValidationError) -> InvalidParameter:
    first = error.errors(include_url=False, include_context=False)[0]
    parameter = str(first["loc"][0])
    place = "".join(f"[{part}]" for part in first["loc"][1:])
    return InvalidParameter(
        parameter, f"{parameter}{place}: {reason_of(first)}; got {first['input']!r:.60}"
    )
