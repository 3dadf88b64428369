"""Traces: nothing without an endpoint; with one, a span a request and one a phase."""

import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service import tracing
from service.errors import RuntimeMissing
from service.settings import Settings
from tests.service.conftest import client_of
from tests.service.fakes import FakeEngine

ROOT = Path(__file__).parents[2]


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[TestClient, Any]]:
    """A client, and where the spans of its server are."""
    reason = "the extra `otel` is not installed"
    sdk = pytest.importorskip("opentelemetry.sdk.trace", reason=reason)
    export = pytest.importorskip("opentelemetry.sdk.trace.export", reason=reason)
    memory = pytest.importorskip(
        "opentelemetry.sdk.trace.export.in_memory_span_exporter", reason=reason
    ).InMemorySpanExporter()
    provider = sdk.TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(export.SimpleSpanProcessor(memory))
    tracer = tracing.Tracer(provider)
    monkeypatch.setattr("service.app.create_tracer", lambda *_: tracer)
    with client_of(Settings(), FakeEngine()) as client:
        yield client, memory


def test_a_request_is_a_span_with_its_phases_below_it(spans: Any, photo: bytes) -> None:
    client, memory = spans
    client.post("/pose", content=photo, headers={"X-Request-ID": "mine"})
    *phases, request = memory.get_finished_spans()
    assert request.name == "POST /pose"
    assert request.attributes["http.response.status_code"] == 200
    assert request.attributes["hrpose.request_id"] == "mine"
    assert request.attributes["hrpose.people"] == 2
    assert [span.name for span in phases] == ["decode", "detect", "queue", "network", "write"]
    assert {span.parent.span_id for span in phases} == {request.context.span_id}
    assert phases[0].end_time - phases[0].start_time == 1_000_000
    assert all(a.end_time == b.start_time for a, b in pairwise(phases))


def test_a_clients_own_trace_is_gone_on_with(spans: Any, photo: bytes) -> None:
    client, memory = spans
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    client.post("/pose", content=photo, headers={"traceparent": f"00-{trace}-{parent}-01"})
    client.post("/pose", content=photo, headers={"traceparent": "nonsense"})
    *_, first, last = [s for s in memory.get_finished_spans() if s.name == "POST /pose"]
    assert f"{first.context.trace_id:032x}" == trace
    assert f"{first.parent.span_id:016x}" == parent
    assert last.parent is None


def test_a_refusal_and_a_fault_say_so(spans: Any, photo: bytes) -> None:
    client, memory = spans
    client.post("/pose?model=full", content=photo)
    client.post("/pose?model=broken", content=photo)
    refused, broken = memory.get_finished_spans()
    assert refused.attributes["error.type"] == "/problems/overloaded"
    assert refused.status.is_ok
    assert broken.attributes["http.response.status_code"] == 500
    assert not broken.status.is_ok


def test_questions_about_the_server_are_not_traced(spans: Any) -> None:
    client, memory = spans
    for path in ("/health/live", "/health/ready", "/metrics"):
        client.get(path)
    assert memory.get_finished_spans() == ()


def test_without_an_endpoint_nothing_is_imported() -> None:
    assert tracing.create_tracer("", "1") is None
    code = (
        "import sys, service.app; from service.settings import Settings; "
        "service.app.create_app(Settings()); "
        "raise SystemExit(any(m.startswith('opentelemetry.sdk') for m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert done.returncode == 0


def test_an_endpoint_without_the_extra_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tracing, "_installed", lambda: False)
    with pytest.raises(RuntimeMissing, match=r"pip install '\.\[otel\]'"):
        tracing.create_tracer("http://127.0.0.1:1/v1/traces", "1")


def test_a_collector_that_is_not_there_costs_no_request(
    photo: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="no extra `otel`")
    with client_of(Settings(otel_endpoint="http://127.0.0.1:1/v1/traces"), FakeEngine()) as client:
        assert client.post("/pose", content=photo).status_code == 200
    assert "hrpose" not in {r.name for r in caplog.records if r.levelname == "CRITICAL"}
