"""POST /models/{name}/load and /unload: what they answer, and what they refuse."""

from collections.abc import Iterator
from contextlib import closing

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from heads.errors import CheckpointError
from service.settings import Settings
from tests.service.conftest import client_of, real_server
from tests.service.fakes import FakeEngine
from tests.service.test_connections import connect
from tests.service.test_problems import assert_problem

ADMIN = {"X-API-Key": "pear"}


@pytest.fixture
def client(engine: FakeEngine) -> Iterator[TestClient]:
    """A client with the key that may change the server."""
    with client_of(Settings(api_keys=SecretStr("apple,admin:pear")), engine) as started:
        started.headers.update(ADMIN)
        yield started


def test_loading_says_what_was_done_and_what_the_network_is_now(client: TestClient) -> None:
    body = client.post("/models/finder/load").json()
    assert body["change"] == "unchanged"
    assert body["seconds"] >= 0
    assert body["model"] == client.get("/models/finder").json()
    assert client.post("/models/finder/load", json={"force": True}).json()["change"] == "swapped"
    assert client.post("/models/finder/unload").json()["change"] == "unloaded"


def test_what_cannot_be_done_to_a_network_is_a_problem(client: TestClient) -> None:
    assert_problem(client.post("/models/nobody/load"), 404, "unknown-model")
    assert_problem(client.post("/models/nobody/unload"), 404, "unknown-model")
    answer = client.post("/models/broken/load")
    assert "broken.safetensors" in assert_problem(answer, 409, "bad-network")["detail"]
    assert_problem(client.post("/models/fast/unload"), 409, "conflict")
    answer = client.post("/models/fast/load", json={"file": "/etc/passwd"})
    assert_problem(answer, 422, "invalid-parameter")
    assert_problem(client.get("/models/fast/load"), 405, "method")


def test_changing_networks_needs_an_admin_key(client: TestClient) -> None:
    client.headers.pop("X-API-Key")
    for change in ("load", "unload"):
        path = f"/models/finder/{change}"
        assert_problem(client.post(path), 401, "unauthorized")
        assert_problem(client.post(path, headers={"X-API-Key": "apple"}), 403, "forbidden")
        assert client.post(path, headers=ADMIN).status_code == 200


def test_without_any_keys_nobody_changes_networks(engine: FakeEngine) -> None:
    with client_of(Settings(), engine) as client:
        assert_problem(client.post("/models/finder/load"), 403, "forbidden")


def test_a_server_told_to_stop_changes_nothing(client: TestClient) -> None:
    client.app.state.serving.drain()  # type: ignore[attr-defined]
    assert_problem(client.post("/models/finder/load"), 503, "overloaded")


@pytest.mark.parametrize("body", [b"{" + b" " * 70_000 + b"}", b'{"force": tru', b"[1]"])
def test_a_body_that_says_no_such_thing_is_refused(client: TestClient, body: bytes) -> None:
    answer = client.post("/models/finder/load", content=body)
    assert answer.status_code == (413 if len(body) > 65_536 else 422)


def test_a_body_is_not_read_before_the_key_is(engine: FakeEngine) -> None:
    """The answer comes while the body, which never ends, has only begun."""
    settings = Settings(api_keys=SecretStr("admin:pear"))
    with real_server(settings, engine) as address, closing(connect(address)) as connection:
        head = b"POST /models/finder/load HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
        connection.sendall(head + b"Content-Type: application/json\r\n\r\n1\r\n \r\n")
        assert b"HTTP/1.1 401 " in connection.recv(65536)


def test_a_body_that_does_not_come_is_not_waited_for(engine: FakeEngine) -> None:
    settings = Settings(api_keys=SecretStr("admin:pear"), timeout_s=0.5)
    with real_server(settings, engine) as address, closing(connect(address)) as connection:
        head = b"POST /models/finder/load HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n"
        connection.sendall(head + b"X-API-Key: pear\r\n\r\n{")
        assert b"HTTP/1.1 504 " in connection.recv(65536)


def test_a_body_that_is_not_text_is_an_invalid_parameter(client: TestClient) -> None:
    sent = {"content": b"\xff{", "headers": {"content-type": "application/json"}}
    answer = client.post("/models/finder/load", **sent)  # type: ignore[arg-type]
    assert assert_problem(answer, 422, "invalid-parameter")["parameter"] == "body"


def test_an_unloaded_network_whose_file_is_damaged_is_unloaded(
    client: TestClient, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(_: str) -> None:
        raise CheckpointError("finder.safetensors is damaged")

    monkeypatch.setattr(engine, "model", damaged)
    body = client.post("/models/finder/unload").json()
    assert (body["change"], body["model"]) == ("unloaded", None)
