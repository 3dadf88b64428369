"""The table from errors to RFC 9457 problems: the only place where an error becomes a status.

An answer never shows a traceback or a path. What is not in the table is a fault of the server: it
is logged under an id, and the client gets the id.
"""

import json
import logging
import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from heads.errors import (
    CheckpointError,
    DownloadError,
    ExportError,
    ImageError,
    TooManyPixels,
    WeightsMissing,
)
from heads.validation import reason_of
from models.errors import HrposeError, UnknownName, WeightsError
from service.errors import (
    BadImageUrl,
    Cancelled,
    Conflict,
    DeadlineExceeded,
    InvalidParameter,
    NotAcceptable,
    Overloaded,
    RateExceeded,
    RuntimeMissing,
    TooLarge,
    Unavailable,
    UnsupportedMedia,
)
from service.keys import Forbidden, Unauthorized
from service.record import current_id, record_of

log = logging.getLogger("hrpose.http")

MEDIA_TYPE = "application/problem+json"


@dataclass(frozen=True)
class Problem:
    """A kind of problem: its status, its `type` and what it is called."""

    status: int
    type: str
    title: str


BAD_IMAGE = Problem(400, "/problems/bad-image", "The image cannot be read")
BAD_IMAGE_URL = Problem(400, "/problems/bad-image-url", "The image cannot be fetched")
NO_KEY = Problem(401, "/problems/unauthorized", "A key is needed")
WRONG_KEY = Problem(403, "/problems/unauthorized", "The key is not accepted")
FORBIDDEN = Problem(403, "/problems/forbidden", "The key may not do this")
UNKNOWN_MODEL = Problem(404, "/problems/unknown-model", "There is no such network")
NOT_FOUND = Problem(404, "/problems/not-found", "There is nothing here")
METHOD = Problem(405, "/problems/method", "This method is not answered here")
NOT_ACCEPTABLE = Problem(406, "/problems/not-acceptable", "No such answer can be written")
WEIGHTS_MISSING = Problem(409, "/problems/weights-missing", "The network's weights are not here")
BAD_NETWORK = Problem(409, "/problems/bad-network", "The network's file cannot be used")
CONFLICT = Problem(409, "/problems/conflict", "This cannot be done to the network now")
RUNTIME_MISSING = Problem(409, "/problems/runtime-missing", "A package is not installed")
TOO_LARGE = Problem(413, "/problems/too-large", "More than is accepted")
MEDIA = Problem(415, "/problems/media-type", "This kind of body is not read")
INVALID = Problem(422, "/problems/invalid-parameter", "A parameter is not valid")
RATE = Problem(429, "/problems/rate", "Asked too often")
OVERLOADED = Problem(429, "/problems/overloaded", "Too much to do")
UNAVAILABLE = Problem(503, "/problems/overloaded", "Not serving now")
DEADLINE = Problem(504, "/problems/deadline", "Not answered in time")
INTERNAL = Problem(500, "/problems/internal", "A fault of the server")

CLIENT_GONE = Problem(499, "/problems/cancelled", "The client went away")
"""Nobody reads it; the status (nginx's) is for logs and metrics."""

PROBLEMS = (
    BAD_IMAGE, BAD_IMAGE_URL, NO_KEY, WRONG_KEY, FORBIDDEN, UNKNOWN_MODEL, NOT_FOUND, METHOD,
    NOT_ACCEPTABLE, WEIGHTS_MISSING, BAD_NETWORK, CONFLICT, RUNTIME_MISSING, TOO_LARGE, MEDIA,
    INVALID, RATE, OVERLOADED, UNAVAILABLE, DEADLINE, INTERNAL,
)  # fmt: skip

_BY_STATUS = {p.status: p for p in PROBLEMS} | {404: NOT_FOUND}


def describe(error: HrposeError) -> tuple[Problem, dict[str, Any]]:
    """The problem that an error is, and the fields that belong to it; INTERNAL if it is a fault."""
    match error:
        case TooManyPixels():
            return TOO_LARGE, {"limit": f"max_megapixels = {error.max_pixels / 1e6:g}"}
        case ImageError():
            return BAD_IMAGE, {}
        case BadImageUrl():
            return BAD_IMAGE_URL, {}
        case Unauthorized():
            return (WRONG_KEY if error.wrong_key else NO_KEY), {}
        case Forbidden():
            return FORBIDDEN, {}
        case UnknownName():
            return UNKNOWN_MODEL, {"known": list(error.known)}
        case NotAcceptable():
            return NOT_ACCEPTABLE, {}
        case WeightsMissing():
            # The error's own message may name a folder of this machine.
            detail = f"the weights of {error.name} are not on this machine; run: {error.command}"
            return WEIGHTS_MISSING, {"detail": detail, "command": error.command}
        case DownloadError():
            return INTERNAL, {}
        case CheckpointError() | WeightsError():
            return BAD_NETWORK, {}
        case ExportError():
            # What the exporting process said may name folders of this machine.
            return BAD_NETWORK, {"detail": "the network cannot be written for this runtime"}
        case Conflict():
            return CONFLICT, {}
        case RuntimeMissing():
            return RUNTIME_MISSING, {"command": error.command}
        case TooLarge():
            return TOO_LARGE, {"limit": error.limit}
        case UnsupportedMedia():
            return MEDIA, {}
        case InvalidParameter():
            return INVALID, {"parameter": error.parameter}
        case Overloaded():
            fields = {"retry_after_s": _whole_seconds(error.retry_after_s)}
            return (UNAVAILABLE if isinstance(error, Unavailable) else OVERLOADED), fields
        case RateExceeded():
            return RATE, {"retry_after_s": _whole_seconds(error.retry_after_s)}
        case DeadlineExceeded():
            return DEADLINE, {}
        case Cancelled():
            return CLIENT_GONE, {}
        case _:
            return INTERNAL, {}


def respond(
    problem: Problem,
    detail: str,
    fields: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """The answer that says a problem; `fields` may hold a detail that replaces the given one."""
    body = {
        "type": problem.type,
        "title": problem.title,
        "status": problem.status,
        "detail": detail,
        **(fields or {}),
    }
    # ASCII only, so that a lone surrogate that a client sent cannot break the answer.
    return Response(json.dumps(body), problem.status, headers, media_type=MEDIA_TYPE)


def respond_to_fault(error: Exception) -> Response:
    """A 500 that says nothing but the request's id, under which the log has the traceback."""
    fault = current_id() or uuid.uuid4().hex
    log.error("fault %s", fault, exc_info=error)
    return respond(INTERNAL, f"the log of the server has more under the id {fault}", {"id": fault})


def install(app: FastAPI) -> None:
    """Makes every error of the application a problem."""
    app.add_exception_handler(HrposeError, _on_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_validation_error)


async def _on_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HrposeError)
    record_of(request.scope).problem = type_of(error)
    return respond_to(error)


def type_of(error: Exception) -> str:
    """The `type` of the problem that an error is answered with."""
    return describe(error)[0].type if isinstance(error, HrposeError) else INTERNAL.type


def respond_to(error: HrposeError) -> Response:
    """The answer to an error that hrpose raised on purpose, or by a fault of its own."""
    problem, fields = describe(error)
    if problem is INTERNAL:
        return respond_to_fault(error)
    return respond(problem, str(error), fields, _headers(problem, fields))


async def _on_http_exception(request: Request, error: Exception) -> Response:
    """What the framework refuses by itself: unknown addresses and methods."""
    assert isinstance(error, HTTPException)
    if error.status_code == 400:  # its word for a body that is not even text
        record_of(request.scope).problem = INVALID.type
        return respond(INVALID, "body: this is not JSON", {"parameter": "body"})
    problem = _BY_STATUS.get(error.status_code, INTERNAL)
    record_of(request.scope).problem = problem.type
    detail = str(error.detail)
    path = request.url.path
    if problem is NOT_FOUND:
        there = ", ".join(sorted(request.app.openapi()["paths"]))
        detail = f"there is nothing at {path[:100]}; there is: {there}"
    elif problem is METHOD:
        allowed = (error.headers or {}).get("Allow", "")
        if "GET" in allowed and "HEAD" not in allowed:  # every GET answers HEAD: see the guard
            allowed += ", HEAD"
            error.headers = {**(error.headers or {}), "Allow": allowed}
        detail = f"{request.method} is not answered at {path[:100]}; allowed: {allowed}"
    return in_form_of(path, respond(problem, detail, headers=error.headers))


def in_form_of(path: str, answer: Response) -> Response:
    """A problem as it is said at a path: at /v2 in the form of that protocol, {"error": why}."""
    if path != "/v2" and not path.startswith("/v2/"):
        return answer
    detail = json.loads(bytes(answer.body))["detail"]
    kept = ("allow", "retry-after", "www-authenticate")
    headers = {name: answer.headers[name] for name in kept if name in answer.headers}
    return Response(
        json.dumps({"error": detail}), answer.status_code, headers, media_type="application/json"
    )


async def _on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    record_of(request.scope).problem = INVALID.type
    first = error.errors()[0]
    parameter = str(first["loc"][-1])
    return respond(INVALID, f"{parameter}: {reason_of(first)}", {"parameter": parameter})


def _headers(problem: Problem, fields: Mapping[str, Any]) -> dict[str, str]:
    headers = {}
    if "retry_after_s" in fields:
        headers["Retry-After"] = str(fields["retry_after_s"])
    if problem is NO_KEY:
        headers["WWW-Authenticate"] = "Bearer"
    return headers


def _whole_seconds(seconds: float) -> int:
    return max(1, math.ceil(seconds))
