"""Pages of other origins: kept away, or let in with what they need to read."""

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr, ValidationError

from service.settings import Settings
from tests.service.conftest import client_of
from tests.service.fakes import FakeEngine

PAGE = "https://page.example"
ALLOW = "access-control-allow-origin"


@pytest.fixture
def shared_with_page(engine: FakeEngine) -> Iterator[TestClient]:
    settings = Settings(cors_origins=f"{PAGE}, http://localhost:3000", api_keys=SecretStr("apple"))
    with client_of(settings, engine) as client:
        yield client


def preflight(client: TestClient, origin: str, header: str = "authorization") -> int:
    headers = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": header,
    }
    return client.options("/pose", headers=headers).status_code


def test_other_origins_are_kept_away_by_default(client: TestClient, photo: bytes) -> None:
    answer = client.post("/pose", content=photo, headers={"origin": PAGE})
    assert ALLOW not in answer.headers
    assert preflight(client, PAGE) == 405


def test_an_origin_that_is_named_may_ask_with_a_key(
    shared_with_page: TestClient, photo: bytes
) -> None:
    for origin in (PAGE, "http://localhost:3000"):
        assert preflight(shared_with_page, origin) == 200
        assert preflight(shared_with_page, origin, "x-api-key") == 200
        headers = {"origin": origin, "x-api-key": "apple"}
        answer = shared_with_page.post("/pose", content=photo, headers=headers)
        assert answer.status_code == 200
        assert answer.headers[ALLOW] == origin
        assert "Retry-After" in answer.headers["access-control-expose-headers"]
        assert "access-control-allow-credentials" not in answer.headers
        assert "Origin" in answer.headers["vary"]


def test_a_page_may_use_the_binary_protocol_and_traces(shared_with_page: TestClient) -> None:
    wanted = "inference-header-content-length,traceparent,x-api-key"
    assert preflight(shared_with_page, PAGE, wanted) == 200
    answer = shared_with_page.get("/v2", headers={"origin": PAGE, "x-api-key": "apple"})
    read = answer.headers["access-control-expose-headers"]
    assert "Inference-Header-Content-Length" in read


def test_an_origin_in_capitals_is_the_same(engine: FakeEngine) -> None:
    with client_of(Settings(cors_origins="https://Page.Example"), engine) as client:
        assert preflight(client, PAGE) == 200


def test_an_origin_that_is_not_named_may_not(shared_with_page: TestClient) -> None:
    for origin in ("https://evil.example", "http://page.example", f"{PAGE}.evil.example"):
        assert preflight(shared_with_page, origin) == 400
        answer = shared_with_page.get("/models", headers={"origin": origin, "x-api-key": "apple"})
        assert ALLOW not in answer.headers


@pytest.mark.parametrize(
    ("path", "key", "status"),
    [("/pose", "", 401), ("/pose?model=nobody", "apple", 404), ("/nothing", "", 404),
     ("/pose?model=broken", "apple", 500), ("/pose?model=full", "apple", 429)],
)  # fmt: skip
def test_a_page_can_read_why_it_was_refused(
    shared_with_page: TestClient, photo: bytes, path: str, key: str, status: int
) -> None:
    headers = {"origin": PAGE, "x-api-key": key}
    answer = shared_with_page.post(path, content=photo, headers=headers)
    assert answer.status_code == status
    assert answer.json()["type"].startswith("/problems/")
    assert answer.headers[ALLOW] == PAGE


def test_a_star_is_every_origin(engine: FakeEngine) -> None:
    with client_of(Settings(cors_origins="*"), engine) as client:
        assert client.get("/models", headers={"origin": PAGE}).headers[ALLOW] == "*"


@pytest.mark.parametrize(
    "origin", ["page.example", f"{PAGE}/", "https://*.example", "ftp://a", "a b"]
)
def test_what_is_no_origin_is_refused(origin: str) -> None:
    with pytest.raises(ValidationError, match="cors_origins"):
        Settings(cors_origins=f"{PAGE},{origin}")
