"""What /metrics tells of requests, their phases, people, batches and the process."""

import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from service.inference.batcher import BatchCounters
from service.settings import Settings
from tests.service.conftest import client_of
from tests.service.fakes import FakeEngine
from tests.service.test_v2 import request_of


def value(client: TestClient, name: str, **labels: str) -> float:
    """The one sample of that name and labels."""
    text = client.get("/metrics").text
    found = [
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    assert len(found) == 1, (name, labels, found)
    return float(found[0])


def test_each_phase_of_an_answer_is_observed(client: TestClient, photo: bytes) -> None:
    client.post("/pose", content=photo)
    client.post("/pose", content=photo)
    expected = {"decode": 0.001, "detect": 0.002, "network": 0.003}
    for phase, seconds in expected.items():
        labels = {"route": "/pose", "phase": phase}
        assert value(client, "hrpose_phase_seconds_count", **labels) == 2
        assert value(client, "hrpose_phase_seconds_sum", **labels) == pytest.approx(2 * seconds)
    took = value(client, "hrpose_request_seconds_sum", route="/pose")
    # What the engine says, and how long it took until a thread had begun.
    assert 2 * 0.0005 < value(client, "hrpose_phase_seconds_sum", phase="queue") < took
    assert value(client, "hrpose_phase_seconds_sum", phase="total") == pytest.approx(took)
    assert 0 < value(client, "hrpose_phase_seconds_sum", phase="write") < took


def test_answers_and_refusals_of_v2_are_told_as_well(client: TestClient, photo: bytes) -> None:
    client.post("/v2/models/fast/infer", json=request_of(photo, photo))
    route = "/v2/models/{name}/infer"
    network = value(client, "hrpose_phase_seconds_sum", route=route, phase="network")
    assert network == pytest.approx(2 * 0.003)
    assert value(client, "hrpose_people_sum", route=route) == 4
    client.post("/v2/models/full/infer", json=request_of(photo))
    assert value(client, "hrpose_refusals_total", reason="overloaded", status="429") == 1


def test_waiting_for_a_thread_is_waiting_in_the_queue(photo: bytes) -> None:
    engine = FakeEngine(slow_s=0.6)
    engine.width = 1
    with client_of(Settings(), engine) as client, ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(client.post, "/pose?model=slow", content=photo) for _ in range(3)]
        assert [each.result(10).status_code for each in asked] == [200, 200, 200]
        queued = value(client, "hrpose_phase_seconds_sum", phase="queue")
        took = value(client, "hrpose_request_seconds_sum", route="/pose")
    # The second waits for the first, the third for both, however late they come.
    assert 0.3 < queued < took - 1.5


def test_a_phase_that_was_not_needed_and_a_refusal_are_not_observed(
    client: TestClient, photo: bytes
) -> None:
    client.post("/classify", content=photo)
    client.post("/pose", content=b"none")
    text = client.get("/metrics").text
    assert (
        'route="/classify",phase="network"' in text or 'phase="network",route="/classify"' in text
    )
    assert 'phase="detect"' not in text
    assert not re.search(r'hrpose_(phase_seconds|people)_count\{[^}]*route="/pose"', text)


def test_people_are_counted_where_they_are_asked_for(client: TestClient, photo: bytes) -> None:
    client.post("/pose", content=photo)
    client.post("/pose?max_people=1", content=photo)
    client.post("/detect", content=photo)
    client.post("/classify", content=photo)
    assert value(client, "hrpose_people_sum", route="/pose") == 3
    assert value(client, "hrpose_people_bucket", route="/pose", le="1.0") == 1
    assert value(client, "hrpose_people_count", route="/detect") == 1
    assert "hrpose_people_count" in client.get("/metrics").text
    assert 'hrpose_people_count{route="/classify"}' not in client.get("/metrics").text


@pytest.mark.parametrize(
    ("path", "reason", "status"),
    [
        ("/pose?model=full", "overloaded", "429"),
        ("/pose?model=nobody", "unknown-model", "404"),
        ("/pose?model=broken", "internal", "500"),
        ("/pose?thresold=1", "invalid-parameter", "422"),
        ("/models", "method", "405"),
        ("/nothing", "not-found", "404"),
    ],
)
def test_a_refusal_is_counted_by_its_reason(
    client: TestClient, photo: bytes, path: str, reason: str, status: str
) -> None:
    client.post(path, content=photo)
    assert value(client, "hrpose_refusals_total", reason=reason, status=status) == 1


def test_what_the_batchers_did_is_told_by_network(client: TestClient, engine: FakeEngine) -> None:
    engine.counters = lambda: {  # type: ignore[method-assign]
        "a": BatchCounters(12, 4, 1, 3, 2, 5, {1: 2, 2: 1, 8: 1}),
        "b": BatchCounters(sizes={100: 1}),
    }
    for name, expected in {
        "hrpose_crops_total": 12,
        "hrpose_batches_total": 4,
        "hrpose_shared_batches_total": 1,
        "hrpose_queue_crops": 3,
        "hrpose_queue_requests": 2,
        "hrpose_worker_restarts_total": 5,
        "hrpose_batch_crops_sum": 12,
        "hrpose_batch_crops_count": 4,
    }.items():
        assert value(client, name, model="a") == expected
    for edge, expected in {"1.0": 2, "2.0": 3, "4.0": 3, "8.0": 4, "+Inf": 4}.items():
        assert value(client, "hrpose_batch_crops_bucket", model="a", le=edge) == expected
    assert value(client, "hrpose_batch_crops_bucket", model="b", le="64.0") == 0
    assert value(client, "hrpose_batch_crops_bucket", model="b", le="+Inf") == 1


def test_a_loaded_network_is_told_with_runtime_and_licence(client: TestClient) -> None:
    assert value(
        client, "hrpose_model_info", model="fast", task="pose", licence="Apache-2.0", default="true"
    )
    assert 'model="missing"' not in client.get("/metrics").text


def test_process_and_python_are_told(client: TestClient) -> None:
    assert value(client, "process_resident_memory_bytes") > 1e6
    assert value(client, "process_open_fds") > 0
    assert value(client, "process_cpu_seconds_total") > 0
    assert value(client, "python_info", implementation="CPython") == 1


def test_each_application_counts_for_itself(photo: bytes) -> None:
    with (
        client_of(Settings(), FakeEngine()) as one,
        client_of(Settings(), FakeEngine()) as two,
    ):
        one.post("/pose", content=photo)
        assert value(one, "hrpose_people_count") == 1
        assert "hrpose_people_count" not in two.get("/metrics").text


def test_every_name_has_a_help_and_a_unit_that_is_basic(client: TestClient, photo: bytes) -> None:
    client.post("/pose", content=photo)
    for family in text_string_to_metric_families(client.get("/metrics").text):
        assert family.documentation
        assert family.name.startswith(("hrpose_", "process_", "python_"))
        assert not re.search(r"_(ms|milliseconds|mb|kb)\b", family.name)


def test_only_networks_that_were_loaded_are_looked_at(
    client: TestClient, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To list all of them reads their files; one that was unloaded may have none any more."""
    counted = dict.fromkeys(("finder", "gone", "missing"), BatchCounters())
    monkeypatch.setattr(engine, "models", lambda: pytest.fail("every file was read"))
    monkeypatch.setattr(engine, "counters", lambda: counted)
    told = re.findall(r"hrpose_model_info\{.*?model=\"(\w+)\"", client.get("/metrics").text)
    assert told == ["finder"]
