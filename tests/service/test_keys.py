"""API keys: who may ask, and what stays open."""

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from service.settings import Settings
from tests.service.conftest import client_of
from tests.service.fakes import FakeEngine
from tests.service.test_problems import assert_problem


@pytest.fixture
def locked(engine: FakeEngine) -> Iterator[TestClient]:
    with client_of(Settings(api_keys=SecretStr("apple, pear,")), engine) as client:
        yield client


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer apple"},
        {"authorization": "bearer pear"},
        {"x-api-key": "pear"},
        {"x-api-key": "apple", "authorization": "Basic abc"},
    ],
)
def test_an_accepted_key_opens(locked: TestClient, photo: bytes, headers: dict[str, str]) -> None:
    assert locked.post("/pose", content=photo, headers=headers).status_code == 200


@pytest.mark.parametrize("headers", [{}, {"authorization": "Basic YTpi"}, {"x-api-key": " "}])
def test_no_key_is_401(locked: TestClient, photo: bytes, headers: dict[str, str]) -> None:
    answer = locked.post("/pose", content=photo, headers=headers)
    assert_problem(answer, 401, "unauthorized")
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("key", ["plum", "appl", "apple, pear", "Apple", "äpfel"])
def test_a_wrong_key_is_403_and_is_not_repeated(locked: TestClient, photo: bytes, key: str) -> None:
    headers = {b"authorization": f"Bearer {key}".encode()}
    body = assert_problem(locked.post("/pose", content=photo, headers=headers), 403, "unauthorized")
    assert key not in str(body)


def test_a_refused_body_is_not_read(locked: TestClient) -> None:
    assert_problem(locked.post("/pose", content=bytes(50_000_000)), 401, "unauthorized")


def test_the_page_and_health_stay_open(locked: TestClient) -> None:
    for path in ("/", "/docs", "/openapi.json", "/static/app.js", "/health/live", "/health/ready"):
        assert locked.get(path).status_code == 200, path
    for path in ("/models", "/models/fast", "/backbones", "/metrics"):
        assert_problem(locked.get(path), 401, "unauthorized")


def test_keys_are_not_shown_with_the_settings() -> None:
    assert "apple" not in repr(Settings(api_keys=SecretStr("apple")))
