"""Rates: who is counted, what a refusal says, and that counting is bounded."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from service.errors import RateExceeded
from service.keys import line_of
from service.rates import RateLimiter, client_of_address
from service.settings import Settings
from tests.service.conftest import client_of
from tests.service.fakes import FakeEngine
from tests.service.test_problems import assert_problem


@pytest.fixture
def counted(engine: FakeEngine) -> Iterator[TestClient]:
    """Two requests an hour for each of two keys."""
    settings = Settings(rate_limit="2/hour", api_keys=SecretStr("apple,pear"))
    with client_of(settings, engine) as client:
        yield client


def test_a_key_that_asks_too_often_is_told_when_to_come_back(
    counted: TestClient, photo: bytes
) -> None:
    for left in ("1", "0"):
        answer = counted.post("/pose", content=photo, headers={"x-api-key": "apple"})
        assert answer.status_code == 200
        assert answer.headers["ratelimit-limit"] == "2"
        assert answer.headers["ratelimit-remaining"] == left
    answer = counted.post("/pose", content=photo, headers={"x-api-key": "apple"})
    body = assert_problem(answer, 429, "rate")
    assert "2 per 1 hour" in body["detail"]
    assert 3500 < body["retry_after_s"] <= 3600
    assert answer.headers["retry-after"] == str(body["retry_after_s"])
    assert answer.headers["ratelimit-remaining"] == "0"
    assert 3500 < int(answer.headers["ratelimit-reset"]) <= 3600


def test_each_key_has_a_rate_of_its_own(counted: TestClient) -> None:
    statuses = [
        counted.get("/models", headers={"x-api-key": key}).status_code
        for key in ("apple", "apple", "apple", "pear")
    ]
    assert statuses == [200, 200, 429, 200]


def test_wrong_keys_and_health_are_not_counted(counted: TestClient) -> None:
    for _ in range(5):
        assert counted.get("/models", headers={"x-api-key": "plum"}).status_code == 403
        assert counted.get("/health/live").status_code == 200
    assert counted.get("/models", headers={"x-api-key": "apple"}).status_code == 200


def test_a_key_may_have_another_rate_than_the_server(engine: FakeEngine, tmp_path: Path) -> None:
    path = tmp_path / "keys.txt"
    path.write_text(f"{line_of('a', 'a', 'infer', '1/hour')}\n{line_of('b', 'b', 'infer')}\n")
    with client_of(Settings(api_keys_file=str(path)), engine) as client:
        for key, statuses in (("a", [200, 429]), ("b", [200, 200])):
            headers = {"x-api-key": key}
            assert [client.get("/models", headers=headers).status_code for _ in "12"] == statuses
        assert "ratelimit-limit" not in client.get("/models", headers={"x-api-key": "b"}).headers


def test_without_keys_addresses_are_counted(engine: FakeEngine) -> None:
    with client_of(Settings(rate_limit="1/hour"), engine) as client:
        assert [client.get("/models").status_code for _ in "12"] == [200, 429]


def test_the_nearest_of_several_rates_is_told() -> None:
    limiter = RateLimiter("100/hour;2/minute")
    left = limiter.check("a")
    assert left is not None
    assert (left.limit, left.remaining) == (2, 1)
    limiter.check("a")
    with pytest.raises(RateExceeded, match="2 per 1 minute"):
        limiter.check("a")


@pytest.mark.parametrize("rate", ["1/minute;2/hour", "2/hour;1/minute"])
def test_what_a_faster_rate_refuses_does_not_count_towards_a_slower_one(rate: str) -> None:
    limiter = RateLimiter(rate)
    limiter.check("a")
    for _ in range(5):
        with pytest.raises(RateExceeded, match="1 per 1 minute"):
            limiter.check("a")


def test_who_did_not_ask_for_longest_is_forgotten_first() -> None:
    limiter = RateLimiter("1/hour", max_counted=3)
    for client in ("a", "b", "c"):
        limiter.check(client)
    with pytest.raises(RateExceeded):
        limiter.check("a")
    limiter.check("d")  # in the place of b, which asked before a did
    for client in ("a", "c", "d"):
        with pytest.raises(RateExceeded):
            limiter.check(client)
    limiter.check("b")


def test_clients_cannot_make_the_table_grow() -> None:
    limiter = RateLimiter("1/hour", max_counted=100)
    for i in range(5000):
        limiter.check(client_of_address(f"10.0.{i // 256}.{i % 256}"))
    counters = limiter._limiter.storage
    assert counters.reset() == 100


def test_a_window_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    limiter = RateLimiter("1/minute")
    now = [1000.0]
    monkeypatch.setattr("service.rates.time.monotonic", lambda: now[0])
    limiter.check("a")
    now[0] += 59
    with pytest.raises(RateExceeded) as refused:
        limiter.check("a")
    assert refused.value.retry_after_s == pytest.approx(1)
    now[0] += 1
    limiter.check("a")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("1.2.3.4", "1.2.3.5", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),  # one customer's /64
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:1.2.3.4", "1.2.3.4", True),
        ("::ffff:1.2.3.4", "::ffff:1.2.3.5", False),
        (None, "a socket", True),
    ],
)
def test_an_address_stands_for_a_client(one: str | None, other: str, same: bool) -> None:
    assert (client_of_address(one) == client_of_address(other)) is same
