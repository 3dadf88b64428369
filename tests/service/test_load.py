"""Bodies are bounded in bytes together, and a refusal says when the work ahead ends."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing

import httpx2
import pytest
from fastapi.testclient import TestClient

from service.load import ByteBudget, DrainRate
from service.settings import MIB, Settings
from tests.service.conftest import client_of, real_server, wait_until
from tests.service.fakes import FakeEngine
from tests.service.test_problems import assert_problem
from tests.service.test_serving import JPEG, Address, send_head, url

KIB = 1024


@pytest.fixture
def light(engine: FakeEngine) -> Iterator[Address]:
    """A server whose requests may hold 100 KiB together."""
    with real_server(
        Settings(max_queue_mb=100 * KIB / MIB, max_upload_mb=100 * KIB / MIB), engine
    ) as address:
        yield address


def start_sending(address: Address, sent: int) -> object:
    """A request that promises nothing of its length and has sent so much of its body."""
    head = "POST /pose HTTP/1.1\r\nContent-Type: image/jpeg\r\nTransfer-Encoding: chunked"
    return closing(send_head(address, head, b"%x\r\n" % sent + bytes(sent) + b"\r\n"))


def bytes_held(address: Address) -> int:
    for line in httpx2.get(url(address, "/metrics")).text.splitlines():
        if line.startswith("hrpose_body_bytes "):
            return int(float(line.split()[1]))
    raise AssertionError("the metric is not there")


def test_bodies_that_are_being_sent_count_together(light: Address, photo: bytes) -> None:
    with ExitStack() as stack:
        for i in range(1, 4):
            stack.enter_context(start_sending(light, 30 * KIB))  # type: ignore[arg-type]
            wait_until(lambda i=i: bytes_held(light) == i * 30 * KIB)  # type: ignore[misc]
        large = photo + bytes(20 * KIB)
        promised = httpx2.post(url(light), content=large, headers=JPEG)
        unpromised = httpx2.post(url(light), content=iter([large]), headers=JPEG)
        form = httpx2.post(url(light), files={"image": large})
        for answer in (promised, unpromised, form):
            body = assert_problem(answer, 429, "overloaded")
            assert "max_queue_mb = 0.0976562 MiB" in body["detail"]
            assert int(answer.headers["retry-after"]) >= 1
        assert httpx2.post(url(light), content=photo, headers=JPEG).status_code == 200
    wait_until(lambda: bytes_held(light) == 0)
    assert httpx2.post(url(light), content=large, headers=JPEG).status_code == 200


def test_bytes_are_held_until_the_work_has_ended(engine: FakeEngine, photo: bytes) -> None:
    size = 1.5 * len(photo) / MIB
    with client_of(Settings(max_queue_mb=size, max_upload_mb=size), engine) as client:
        statuses: list[int] = []
        working = threading.Thread(target=lambda: statuses.append(ask(client, photo, "slow")))
        working.start()
        assert engine.working.acquire(timeout=5)
        assert ask(client, photo, "fast") == 429
        working.join()
        assert statuses == [200]
        for _ in range(3):  # nothing is left over, whatever became of a request
            assert ask(client, photo, "fast") == 200
            assert ask(client, photo, "broken") == 500
            assert ask(client, b"no image", "fast") == 400


def ask(client: TestClient, photo: bytes, model: str) -> int:
    return client.post(f"/pose?model={model}", content=photo, headers=JPEG).status_code


def test_a_budget_counts_all_or_nothing() -> None:
    budget = ByteBudget(10)
    assert budget.take(6)
    assert not budget.take(5)
    assert budget.held == 6
    assert budget.take(4)
    budget.give(10)
    assert budget.held == 0


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that the test moves."""
    clock = [100.0]
    monkeypatch.setattr("service.load.time.monotonic", lambda: clock[0])
    return clock


def test_a_refusal_says_when_the_requests_ahead_will_have_ended(now: list[float]) -> None:
    rate = DrainRate()
    assert rate.retry_after_s(30) == 1  # nothing is known yet
    for _ in range(6):
        rate.begin()
    for _ in range(2):
        now[0] += 2.0
        rate.end()
    assert rate.retry_after_s(30) == pytest.approx(4 * 2.0)
    assert rate.retry_after_s(5) == 5
    now[0] += 7.0
    rate.end()
    assert rate.retry_after_s(30) == pytest.approx(3 * (2.0 + 0.2 * 5.0))


def test_idle_time_is_not_slowness(now: list[float]) -> None:
    rate = DrainRate()
    for _ in range(2):
        now[0] += 1000.0
        rate.begin()
        now[0] += 3.0
        rate.end()
    rate.begin()
    assert rate.retry_after_s(30) == pytest.approx(3.0)


def test_a_refused_place_tells_the_measured_time(engine: FakeEngine, photo: bytes) -> None:
    """The fake's `slow` network takes as long as it is told."""
    engine.slow_s = 1.2
    with client_of(Settings(max_requests=1), engine) as client:
        assert ask(client, photo, "slow") == 200
        working = threading.Thread(target=ask, args=(client, photo, "slow"))
        working.start()
        assert engine.working.acquire(timeout=5)
        assert engine.working.acquire(timeout=5)
        answer = client.post("/pose", content=photo, headers=JPEG)
        working.join()
    body = assert_problem(answer, 429, "overloaded")
    assert body["retry_after_s"] >= 2
    assert answer.headers["retry-after"] == str(body["retry_after_s"])
