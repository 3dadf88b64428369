"""/v2: the same networks by the Open Inference Protocol, for clients of KServe and Triton."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from heads.errors import WeightsMissing
from models.errors import HrposeError
from service import problems
from service.accept import JSON
from service.errors import InvalidParameter
from service.inference.job import Job
from service.parameters import ClassifyParameters, PoseParameters
from service.record import record_of
from service.routes.dependencies import KEY_NEEDED, ServingState
from service.serving import Serving
from service.v2 import (
    EXTENSIONS,
    HEADER_LENGTH,
    INPUT,
    MAX_IMAGES,
    OUTPUTS,
    Found,
    InferRequest,
    PeopleTensors,
    Written,
    check_options,
    check_outputs,
    found_classes,
    found_segments,
    read_request,
    write_answer,
)

PREFIX = "/v2"
BYTES = "application/octet-stream"


class V2Route(APIRoute):
    """A route whose refusals have the form of the protocol: {"error": why}."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler of the framework, and round it the form of errors."""
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            try:
                return await handle(request)
            except (HTTPException, RequestValidationError):
                raise
            except Exception as error:  # the top of a request: a fault is logged and hidden
                record_of(request.scope).problem = problems.type_of(error)
                return problems.in_form_of(PREFIX, _refusal(error))

        return handled


router = APIRouter(prefix=PREFIX, tags=["open inference protocol"], route_class=V2Route)

_ERROR = {
    JSON: {
        "schema": {
            "type": "object",
            "required": ["error"],
            "properties": {"error": {"type": "string"}},
        }
    }
}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    "4XX": {"description": "Why it was refused", "content": _ERROR},
    "5XX": {"description": "Why there is no answer", "content": _ERROR},
}
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_OUTPUT = {
    "type": "object",
    "required": ["name", "datatype", "shape"],
    "properties": {
        "name": {"enum": sorted({name for outputs in OUTPUTS.values() for name in outputs})},
        "datatype": {"enum": ["FP32", "INT32", "UINT8"]},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        "data": {
            "type": "array",
            "items": {"type": "number"},
            "description": "Row after row; not there where the values come after the JSON.",
        },
        "parameters": {
            "type": "object",
            "properties": {"binary_data_size": {"type": "integer"}},
        },
    },
    "additionalProperties": False,
}
_ANSWER = {
    "schema": {
        "type": "object",
        "required": ["model_name", "outputs"],
        "properties": {
            "model_name": {"type": "string"},
            "id": {"type": "string"},
            "outputs": {"type": "array", "items": _OUTPUT},
        },
        "additionalProperties": False,
    }
}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": f"Tensors; {BYTES} where values are asked for in binary form: the JSON, of "
        f"as many bytes as {HEADER_LENGTH} says, and then the values",
        "content": {JSON: _ANSWER, BYTES: _BINARY},
    }
}
_TENSOR = {
    "type": "object",
    "required": ["name", "shape", "datatype"],
    "properties": {
        "name": {"const": INPUT},
        "datatype": {"const": "BYTES"},
        "shape": {"type": "array", "items": {"type": "integer"}, "minItems": 1},
        "data": {
            "type": "array",
            "maxItems": MAX_IMAGES,
            "items": {"type": "string", "description": "An image file in base64."},
        },
        "parameters": {"type": "object"},
    },
}
_INFER = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "parameters": {
            "type": "object",
            "description": "Options of POST /pose or /classify by their names, and "
            "binary_data_output: true for all values in binary form.",
        },
        "inputs": {"type": "array", "minItems": 1, "maxItems": 1, "items": _TENSOR},
        "outputs": {"type": "array", "items": {"type": "object", "required": ["name"]}},
    },
}


@router.get("/health/live")
async def live() -> dict[str, bool]:
    """The process answers; also while networks are being loaded."""
    return {"live": True}


@router.get("/health/ready", responses=_REFUSALS)
async def ready(serving: ServingState) -> dict[str, bool]:
    """Networks are loaded and warm, queues are below their bound, and nobody said stop."""
    serving.check_ready()
    return {"ready": True}


@router.get("", dependencies=KEY_NEEDED, responses=_REFUSALS)
async def server(request: Request) -> dict[str, Any]:
    """What serves, and which extensions of the protocol it knows."""
    return {"name": "hrpose", "version": request.app.version, "extensions": list(EXTENSIONS)}


@router.get("/models/{name}", dependencies=KEY_NEEDED, responses=_REFUSALS)
def model(name: str, serving: ServingState) -> dict[str, Any]:
    """A network's tensors; `default` is an alias."""
    info = serving.engine.model(name)
    return {
        "name": info.name,
        "platform": "hrpose",
        "inputs": [{"name": INPUT, "datatype": "BYTES", "shape": [-1]}],
        "outputs": [
            {"name": output, "datatype": datatype, "shape": list(shape)}
            for output, (datatype, shape) in OUTPUTS[info.task].items()
        ],
    }


@router.get("/models/{name}/ready", dependencies=KEY_NEEDED, responses=_REFUSALS)
def model_ready(name: str, serving: ServingState) -> dict[str, Any]:
    """A request to this network would be answered; it may be loaded for it."""
    info = serving.engine.model(name)
    if info.state == "weights-missing":
        raise WeightsMissing(info.name, info.command or "hrpose models")
    serving.check_ready()
    return {"name": info.name, "ready": True}


@router.post(
    "/models/{name}/infer",
    dependencies=KEY_NEEDED,
    responses=_ANSWERS | _REFUSALS,
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "JSON; or JSON and after it the images, each after its length in four "
            f"bytes, lowest first, where {HEADER_LENGTH} says how many bytes are JSON.",
            "content": {JSON: {"schema": _INFER}, BYTES: _BINARY},
        },
        "parameters": [
            {
                "name": HEADER_LENGTH,
                "in": "header",
                "schema": {"type": "integer", "minimum": 1},
                "description": "Bytes of the JSON, where images come after it in binary form.",
            }
        ],
    },
)
async def infer(name: str, request: Request, serving: ServingState) -> Response:
    """Tensors of one or several photographs; values in JSON, or binary after it."""
    most = serving.settings.max_upload_bytes
    with serving.visit(request) as visit:
        body = await visit.read_raw()

        def work() -> Written:
            asked = read_request(body, request.headers.get(HEADER_LENGTH))
            info = serving.engine.model(name)
            check_outputs(asked, info.task)
            found = _TASKS[info.task](serving, info.name, asked, visit.job)
            return visit.record.written(
                found, lambda: write_answer(info.name, asked, found.tensors, most), found.people
            )

        answer = await visit.run(work)
    if answer.header_length is None:
        return Response(answer.body, media_type=JSON)
    headers = {HEADER_LENGTH: str(answer.header_length)}
    return Response(answer.body, media_type=BYTES, headers=headers)


def _people(serving: Serving, name: str, asked: InferRequest, job: Job) -> Found:
    most = serving.settings.max_people
    options = PoseParameters.of(check_options(asked.pairs, "pose"), most).options(most)
    found = PeopleTensors()
    for image in asked.images:
        found.add(serving.engine.pose(image, name, options, job))
    return found.found()


def _classes(serving: Serving, name: str, asked: InferRequest, job: Job) -> Found:
    pairs = check_options(asked.pairs, "classify")
    top_k = ClassifyParameters.of(pairs, serving.settings.max_people).top_k
    return found_classes(
        [serving.engine.classify(image, name, top_k, job) for image in asked.images]
    )


def _segments(serving: Serving, name: str, asked: InferRequest, job: Job) -> Found:
    check_options(asked.pairs, "segment")
    if len(asked.images) > 1:
        raise InvalidParameter(INPUT, "class maps have sizes of their own: send one image")
    return found_segments(serving.engine.segment(asked.images[0], name, job))


_TASKS: dict[str, Callable[[Serving, str, InferRequest, Job], Found]] = {
    "pose": _people,
    "people": _people,
    "classify": _classes,
    "segment": _segments,
}


def _refusal(error: Exception) -> Response:
    if isinstance(error, HrposeError):
        return problems.respond_to(error)
    return problems.respond_to_fault(error)
