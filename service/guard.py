"""The outermost layer: counts requests, adds what every answer carries, hides every fault."""

import asyncio
import logging
import time

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.dispatch import RETRY_S
from service.errors import Unavailable
from service.metrics import Metrics
from service.problems import INTERNAL, respond_to, respond_to_fault, type_of
from service.record import HEADER, begin
from service.serving import RATE_HEADERS, Serving
from service.tracing import Tracer

log = logging.getLogger("hrpose.http")

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; media-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}

_RAW_HEADERS = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]

NOT_WORK = (
    "/health/live", "/health/ready", "/metrics", "/v2/health/live", "/v2/health/ready",
)  # fmt: skip
"""Questions about the server: a server that is told to stop does not wait for them."""


class Guard:
    """ASGI middleware round a whole application."""

    def __init__(
        self, app: ASGIApp, serving: Serving, metrics: Metrics, tracer: Tracer | None = None
    ) -> None:
        self._app = app
        self._serving = serving
        self._metrics = metrics
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request, whatever happens inside."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        method, record = scope["method"], begin(scope)
        scope = _answered_whole(scope)
        status = 0

        async def guarded_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers.update(scope.get(RATE_HEADERS, {}))
                headers[HEADER] = record.request_id
                own = {name for name, _ in headers.raw}
                headers.raw.extend(pair for pair in _RAW_HEADERS if pair[0] not in own)
            await send(message)

        is_work = scope["path"] not in NOT_WORK
        self._serving.active_requests += is_work
        try:
            await self._app(scope, receive, guarded_send)
        except asyncio.CancelledError:  # the time to finish what was accepted is over
            if not self._serving.draining:
                raise
            if status == 0:
                late = Unavailable("the server is shutting down", RETRY_S)
                record.problem = type_of(late)
                await respond_to(late)(scope, receive, guarded_send)
        except Exception as error:  # the top of a request: the server lives on
            response = respond_to_fault(error)
            record.problem = INTERNAL.type
            if status == 0:
                await response(scope, receive, guarded_send)
        finally:
            self._serving.active_requests -= is_work
            route = getattr(scope.get("route"), "path", "other")
            seconds = time.perf_counter() - start
            self._metrics.count(route, status, seconds, record)
            if self._tracer is not None and is_work:
                self._tracer.trace(scope, route, status, seconds, record)
            log.log(
                logging.INFO if is_work else logging.DEBUG,
                "%s %s %d %.0f ms", method, route, status, seconds * 1000,
                extra={"route": route, "status": status, "seconds": round(seconds, 6)},
            )  # fmt: skip


def _answered_whole(scope: Scope) -> Scope:
    """The request as routes know it: HEAD is GET, without a body below; nobody answers in parts."""
    if scope["method"] != "HEAD" and all(name != b"range" for name, _ in scope["headers"]):
        return scope
    method = "GET" if scope["method"] == "HEAD" else scope["method"]
    headers = [pair for pair in scope["headers"] if pair[0] != b"range"]
    return {**scope, "method": method, "headers": headers}
