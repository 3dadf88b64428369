"""What routes ask for: the serving state, an accepted key, the kind of answer that is wanted."""

from typing import Annotated, Any

from fastapi import Depends, Request

from service.accept import JSON, choose
from service.keys import Key, check_admin
from service.serving import Serving


def serving_of(request: Request) -> Serving:
    """The state of the application."""
    serving = request.app.state.serving
    assert isinstance(serving, Serving)
    return serving


async def get_serving(request: Request) -> Serving:
    """As a dependency; one that is not `async` would be run by a thread, which takes longer."""
    return serving_of(request)


ServingState = Annotated[Serving, Depends(get_serving)]


async def check_key(request: Request) -> Key | None:
    """Refuses a request without an accepted key, where keys are configured, or asked too often."""
    serving = serving_of(request)
    key = serving.keys.check(request)
    serving.count(request, key)
    return key


KEY_NEEDED: list[Any] = [Depends(check_key)]


async def check_admin_key(key: Annotated[Key | None, Depends(check_key)]) -> None:
    """Refuses a request without a key of the scope admin, also where no keys are configured."""
    check_admin(key)


ADMIN_NEEDED: list[Any] = [Depends(check_admin_key)]
"""For routes that change the server; beside KEY_NEEDED the key is still checked once."""


def answer_type(request: Request) -> str:
    """JSON, JPEG or PNG, as the Accept header says; NotAcceptable for anything else."""
    return choose(", ".join(request.headers.getlist("accept")))


async def choose_json(request: Request) -> None:
    """NotAcceptable where the Accept header wants no JSON."""
    choose(", ".join(request.headers.getlist("accept")), (JSON,))


ONLY_JSON: list[Any] = [Depends(choose_json)]
