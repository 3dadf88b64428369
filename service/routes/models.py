"""GET /models and /backbones: what can be served, and what networks are built on.

POST /models/{name}/load and /unload change what is served, while it is served.
"""

import time
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from pydantic import ValidationError

from heads.validation import reason_of
from models.errors import HrposeError, UnknownName
from service.accept import JSON
from service.body import read_small
from service.errors import InvalidParameter
from service.inference.catalogue import BACKBONES
from service.routes.dependencies import ADMIN_NEEDED, KEY_NEEDED, ServingState
from service.schemas import (
    BackbonesResponse,
    ChangeRequest,
    ChangeResponse,
    ModelAnswer,
    ModelsResponse,
    problem_responses,
)
from service.siblings import Order

router = APIRouter(tags=["networks"], dependencies=KEY_NEEDED)

CHANGE_SCHEMA = ChangeRequest.model_json_schema()

# Plain functions: the framework runs them in threads, for they read files.


@router.get("/models", responses=problem_responses(401, 403, 429))
def list_models(serving: ServingState) -> ModelsResponse:
    """All known networks, also those whose weights are not on this machine."""
    engine = serving.engine
    return ModelsResponse(
        default=engine.default,
        detector=engine.detector,
        runtime=engine.runtime,
        models=[ModelAnswer.of(info) for info in engine.models()],
    )


@router.get("/models/{name}", responses=problem_responses(401, 403, 404, 409, 429))
def get_model(name: str, serving: ServingState) -> ModelAnswer:
    """One network; `default` is an alias."""
    return ModelAnswer.of(serving.engine.model(name))


async def read_change(request: Request, serving: ServingState) -> ChangeRequest:
    """What the body asks for; read when the key has been looked at, and never more than a little.

    The framework by itself would read all of a body first, whoever sends it.
    """
    data = await read_small(request, serving.settings.timeout_s)
    try:
        return ChangeRequest.model_validate_json(data) if data.strip() else ChangeRequest()
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        parameter = str(first["loc"][0]) if first["loc"] else "body"
        raise InvalidParameter(parameter, f"{parameter[:60]}: {reason_of(first)}") from None


@router.post(
    "/models/{name}/load",
    dependencies=ADMIN_NEEDED,
    responses=problem_responses(401, 403, 404, 409, 413, 422, 429, 500, 503, 504),
    openapi_extra={"requestBody": {"content": {JSON: {"schema": CHANGE_SCHEMA}}}},
)
def load_model(
    name: str,
    request: Request,
    serving: ServingState,
    asked: Annotated[ChangeRequest, Depends(read_change)],
) -> ChangeResponse:
    """Loads and warms a network; one whose file has changed takes the place of the old one.

    Requests in flight finish on the old network, and none fails. A file that cannot be used is
    refused, and the old network stays.
    """
    with serving.changing():
        return _changed(request, serving, Order(name, load=True, force=asked.force))


@router.post(
    "/models/{name}/unload",
    dependencies=ADMIN_NEEDED,
    responses=problem_responses(401, 403, 404, 409, 429, 500, 503),
)
def unload_model(name: str, request: Request, serving: ServingState) -> ChangeResponse:
    """Ends a network when its requests are answered; a request for it loads it again.

    The default network and the detector stay.
    """
    with serving.changing():
        return _changed(request, serving, Order(name, load=False))


def _changed(request: Request, serving: ServingState, order: Order) -> ChangeResponse:
    """Changes a network of this process, and then of all others of the server."""
    serving.check_open()
    start = time.perf_counter()
    try:
        done = serving.change(order)
    except UnknownName:  # another process may have it loaded, though its file is gone
        if not order.load:
            request.app.state.pass_on(order)
        raise
    request.app.state.pass_on(order)
    seconds = round(time.perf_counter() - start, 3)
    try:
        model = ModelAnswer.of(serving.engine.model(order.name))
    except HrposeError:  # unloaded, and its file is gone or damaged
        model = None
    return ChangeResponse(change=done, seconds=seconds, model=model)


@router.get("/backbones", responses=problem_responses(401, 403, 429))
def list_backbones() -> BackbonesResponse:
    """All architectures, with paper, cost and the licence of their public weights."""
    # From a file made by `make docs`: architectures need torch, which may not be installed.
    return BackbonesResponse.model_validate_json(BACKBONES.read_bytes())
