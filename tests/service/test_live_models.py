"""POST /models/{name}/load and /unload: what they answer, and what they refuse."""

from fastapi.testclient import TestClient

from service.settings import Settings
from tests.service.conftest import client_of
from tests.service.fakes import FakeEngine
from tests.service.test_problems import assert_problem


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


def test_changing_networks_needs_a_key_where_there_are_keys(engine: FakeEngine) -> None:
    with client_of(Settings(api_keys="k"), engine) as client:  # type: ignore[arg-type]
        for change in ("load", "unload"):
            assert_problem(client.post(f"/models/finder/{change}"), 401, "unauthorized")
            answer = client.post(f"/models/finder/{change}", headers={"Authorization": "Bearer k"})
            assert answer.status_code == 200


def test_a_server_told_to_stop_changes_nothing(client: TestClient) -> None:
    client.app.state.serving.drain()  # type: ignore[attr-defined]
    assert_problem(client.post("/models/finder/load"), 503, "overloaded")
