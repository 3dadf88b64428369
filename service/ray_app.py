"""The application on Ray Serve: replicas on one machine or many, as many as the load asks for.

    serve run service.ray_app:app             settings from the environment
    hrpose serve --engine ray --replicas 2    the same, by flags

A front without networks reads each request and gives it to a replica, a whole application whose
engine batches the crops of the requests that it holds. Where a replica dies, the front gives what
that replica held to another one: asking twice about a photograph does no harm. When `hrpose serve`
is told to stop, the front refuses new requests and finishes those it holds before Ray Serve ends.
"""

import asyncio
import contextlib
import logging
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import BackPressureError, RayServeException
from starlette.requests import Request
from starlette.responses import Response

from models.errors import HrposeError
from service import problems
from service.app import create_app
from service.asgi import Answered, Sent, ask
from service.body import read_raw
from service.errors import Conflict, DeadlineExceeded, Overloaded, Unavailable
from service.guard import HEADERS
from service.keys import KeyRing
from service.load import ByteBudget
from service.record import HEADER, begin
from service.serving import LOADING_RETRY_S, PoseEngine, Serving, keys_of
from service.settings import Settings

log = logging.getLogger("hrpose")

ATTEMPTS = 4
"""So many replicas one request may see die before it is given up."""

POLL_S = 0.05

BUSY_RETRY_S = 1.0

PASSING_S = 1.0
"""In this time answers of the front pass Ray's proxy, which is killed with what it holds."""

LIVE = ("/health/live", "/v2/health/live")

_CHANGE = re.compile(r"/models/.+/(un)?load")

APP = "hrpose"
"""What Ray Serve calls the application."""

MakeEngine = Callable[[], PoseEngine]


class Replica:
    """One application with its networks; made when they are loaded."""

    def __init__(self, settings: Settings, make_engine: MakeEngine | None = None) -> None:
        logging.getLogger("hrpose").setLevel(settings.log_level.upper())
        self._app = create_app(settings, make_engine() if make_engine else None)
        self._serving: Serving = self._app.state.serving
        self._open = contextlib.AsyncExitStack()

    async def start(self) -> None:
        """Loads the networks; raises what keeps them from being loaded."""
        await self._open.enter_async_context(self._serving.lifespan())
        while True:
            if self._serving.failure is not None:
                raise self._serving.failure
            with contextlib.suppress(Overloaded):
                return self._serving.check_ready()
            await asyncio.sleep(POLL_S)

    async def answer(self, sent: Sent) -> Answered:
        """What the application answers."""
        return await ask(self._app, sent, asyncio.Event().wait)

    def check_health(self) -> None:
        """Asked by Ray now and then; a replica that raises is replaced."""
        if self._serving.failure is not None:
            raise self._serving.failure

    async def close(self) -> None:
        """Ends its work."""
        await self._open.aclose()


class ServedReplica:
    """A Replica as Ray keeps it."""

    # Ray waits for it, so a replica is there when its networks are.
    async def __init__(  # type: ignore[misc]
        self, settings: Settings, make_engine: MakeEngine | None = None
    ) -> None:
        self._replica = Replica(settings, make_engine)
        await self._replica.start()

    async def answer(self, sent: Sent) -> Answered:
        """What the application answers."""
        return await self._replica.answer(sent)

    def check_health(self) -> None:
        """Asked by Ray."""
        self._replica.check_health()

    async def __del__(self) -> None:
        """Called by Ray when it takes the replica away."""
        await self._replica.close()


class _Held:
    """What the body of one request takes of the front's bytes."""

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self._count = 0

    def check_room(self, count: int) -> None:
        """Overloaded where so many more would not fit."""
        if not self._budget.has_room_for(count):
            raise self._budget.refusal(BUSY_RETRY_S)

    def hold(self, count: int) -> None:
        """Counts bytes; Overloaded where they do not fit."""
        if not self._budget.take(count):
            raise self._budget.refusal(BUSY_RETRY_S)
        self._count += count

    def give_back(self) -> None:
        """The request has ended."""
        self._budget.give(self._count)


class Front:
    """Takes requests over HTTP, and sees that each is answered.

    What it refuses by itself carries the headers of other answers, but for those of CORS.
    """

    def __init__(self, replicas: Any, settings: Settings) -> None:
        self._replicas = replicas
        self._keys = KeyRing(keys_of(settings))
        self._budget = ByteBudget(settings.max_queue_bytes * most_replicas(settings))
        self._max_bytes = settings.max_upload_bytes
        self._timeout_s = settings.timeout_s
        self._draining = False
        self._at_work = 0

    async def __call__(self, request: Request) -> Response:
        """The answer of whichever replica lives."""
        record = begin(request.scope)
        self._at_work += 1
        try:
            self._check(request)
            answered = await self._answer(request)
        except HrposeError as error:
            refusal = problems.in_form_of(request.url.path, problems.respond_to(error))
            refusal.headers.update({**HEADERS, HEADER: record.request_id})
            return refusal
        finally:
            self._at_work -= 1
        response = Response(answered.body, answered.status)
        response.raw_headers = answered.headers
        return response

    async def drain(self) -> int:
        """New requests are refused from now on; so many are not answered yet."""
        self._draining = True
        return self._at_work

    def _check(self, request: Request) -> None:
        """Before a body is read."""
        path = request.url.path
        if self._draining and path not in LIVE:
            raise Unavailable("the server is shutting down", LOADING_RETRY_S)
        if request.method == "POST":  # what is asked otherwise is little, and some of it open
            self._keys.check(request)
        if _CHANGE.fullmatch(path):
            raise Conflict("replicas cannot be changed one by one while they serve: deploy anew")

    async def _answer(self, request: Request) -> Answered:
        held = _Held(self._budget)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._ask(await self._read(request, held))
        except TimeoutError:
            raise DeadlineExceeded(f"not answered within {self._timeout_s:g} s") from None
        finally:
            held.give_back()

    async def _read(self, request: Request, held: _Held) -> Sent:
        body = await read_raw(request, self._max_bytes, held)
        scope = request.scope
        client = None if request.client is None else (request.client.host, request.client.port)
        return Sent(
            request.method,
            scope["path"],
            scope["query_string"],
            list(scope["headers"]),
            body,
            client,
        )

    async def _ask(self, sent: Sent) -> Answered:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                answered: Answered = await self._replicas.answer.remote(sent)
                return answered
            except BackPressureError as error:
                raise Overloaded("all replicas are busy", BUSY_RETRY_S) from error
            except RayActorError:
                log.warning("a replica died; asking another (%d of %d)", attempt, ATTEMPTS)
            except RayError as error:
                log.error("no replica can be asked: %s", error)
                raise Unavailable("the replicas cannot be asked", LOADING_RETRY_S) from error
        raise Unavailable("the replicas die faster than they answer", 5.0)


def most_replicas(settings: Settings) -> int:
    """At once, however much there is to do."""
    return max(settings.max_replicas, settings.replicas)


def build(settings: Settings, make_engine: MakeEngine | None = None) -> serve.Application:
    """The application for `serve.run`."""
    most = most_replicas(settings)
    replica = serve.deployment(
        name="replica",
        autoscaling_config={
            "min_replicas": settings.replicas,
            "initial_replicas": settings.replicas,
            "max_replicas": most,
            "target_ongoing_requests": settings.target_ongoing_requests,
        },
        max_ongoing_requests=settings.max_requests,
        max_queued_requests=settings.max_requests * most,
        graceful_shutdown_timeout_s=settings.drain_s,
        health_check_period_s=5,
        ray_actor_options={"num_cpus": settings.threads or 1},
    )(ServedReplica)
    front = serve.deployment(
        name="front",
        max_ongoing_requests=settings.max_requests * most,
        ray_actor_options={"num_cpus": 0},
    )(Front)
    application: serve.Application = front.bind(replica.bind(settings, make_engine), settings)
    return application


def app(arguments: dict[str, str]) -> serve.Application:
    """What `serve run service.ray_app:app NAME=VALUE ...` takes: settings by name."""
    given: dict[str, Any] = dict(arguments)
    return build(Settings(**given))


@contextlib.contextmanager
def _started(settings: Settings) -> Iterator[None]:
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=True)
    serve.start(http_options={"host": settings.host, "port": settings.port})
    try:
        yield
    finally:
        serve.shutdown()


class _Stopped(BaseException):
    """A signal said so. No Exception: nobody on the way is to take it for a fault."""


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise _Stopped


def run(settings: Settings, make_engine: MakeEngine | None = None) -> None:
    """Serves until told to stop: what `hrpose serve --engine ray` calls."""
    with contextlib.suppress(_Stopped), _started(settings):
        for number in (signal.SIGTERM, signal.SIGINT):  # Ray's own end the process at once
            signal.signal(number, _stop)
        try:  # requests are answered a while before `serve.run` returns
            serve.run(build(settings, make_engine), name=APP, route_prefix="/")
            threading.Event().wait()
        except _Stopped:
            _drain(settings.drain_s)  # told to stop once more, it waits no longer


def _drain(drain_s: float) -> None:
    """Has the front refuse new requests, and waits until it has answered the others."""
    end = time.monotonic() + drain_s
    try:
        front = serve.get_app_handle(APP)
        while front.drain.remote().result(timeout_s=max(0.0, end - time.monotonic())):
            time.sleep(POLL_S)
    except (RayError, RayServeException, TimeoutError) as error:  # no front, or no time left
        log.warning("some requests may not be finished: %s", error)
    time.sleep(PASSING_S)
