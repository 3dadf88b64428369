"""Traces by OpenTelemetry, where the extra `otel` is installed and an endpoint is set."""

import importlib.util
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from starlette.types import Scope

from service.errors import RuntimeMissing
from service.record import Record

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

PHASES = ("decode", "detect", "queue", "network", "write")
"""In the order in which they happen."""

CLOSING_MS = 3000


class Tracer:
    """Makes the spans of a request when it has been answered, so that a request pays for none.

    The phases are known by how long they took; they are laid one after another up to the end.
    """

    def __init__(self, provider: "TracerProvider") -> None:
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._trace = trace
        self._provider = provider
        self._tracer = provider.get_tracer("hrpose")
        self._propagator = TraceContextTextMapPropagator()

    def trace(self, scope: Scope, route: str, status: int, seconds: float, record: Record) -> None:
        """One span for the request, below the client's own if it sent one, and one a phase."""
        trace, end = self._trace, time.time_ns()
        sent = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        span = self._tracer.start_span(
            f"{scope['method']} {route}",
            context=self._propagator.extract(sent),
            kind=trace.SpanKind.SERVER,
            start_time=end - _ns(seconds),
            attributes=_attributes(scope, route, status, record),
        )
        if status >= 500:
            span.set_status(trace.StatusCode.ERROR)
        inside = trace.set_span_in_context(span)
        took = {phase: record.phases[phase] for phase in PHASES if phase in record.phases}
        at = end - _ns(min(seconds, sum(took.values())))
        for phase, phase_s in took.items():
            child = self._tracer.start_span(phase, context=inside, start_time=at)
            at += _ns(phase_s)
            child.end(at)
        span.end(end)

    def close(self) -> None:
        """Sends what is left. Blocks, not for long."""
        self._provider.force_flush(CLOSING_MS)
        self._provider.shutdown()


def create_tracer(endpoint: str, version: str) -> Tracer | None:
    """The tracer that sends to an endpoint; None, and nothing is imported here, without one.

    Sending is done by a thread of its own; what cannot be sent is dropped. Raises RuntimeMissing
    where the extra is not installed.
    """
    if not endpoint:
        return None
    if importlib.util.find_spec("opentelemetry") is None or not _installed():
        raise RuntimeMissing("opentelemetry-sdk", "otel", "otel_endpoint")
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    about = Resource.create({"service.name": "hrpose", "service.version": version})
    provider = TracerProvider(resource=about, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint, timeout=2)))
    return Tracer(provider)


def _installed() -> bool:
    try:
        return all(
            importlib.util.find_spec(name) is not None
            for name in ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
        )
    except ModuleNotFoundError:  # a package above is not there
        return False


def _attributes(scope: Scope, route: str, status: int, record: Record) -> Mapping[str, Any]:
    found: dict[str, Any] = {
        "http.request.method": scope["method"],
        "http.route": route,
        "http.response.status_code": status,
        "hrpose.request_id": record.request_id,
    }
    if record.people is not None:
        found["hrpose.people"] = record.people
    if record.problem is not None:
        found["error.type"] = record.problem
    return found


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
