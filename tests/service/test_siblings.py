"""Server processes that answer /metrics for each other: here two applications in one process."""

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from heads.errors import CheckpointError
from models.errors import UnknownName
from service.app import create_app
from service.errors import Unavailable
from service.settings import Settings
from service.siblings import PATIENCE_S, Order, Seat, Siblings
from tests.service.conftest import wait_until
from tests.service.fakes import FakeEngine
from tests.service.test_metrics import value
from tests.service.test_problems import assert_problem


@contextlib.contextmanager
def process(
    folder: Path, worker: int, workers: int = 2, engine: FakeEngine | None = None
) -> Iterator[TestClient]:
    """A client, with an admin's key, of an application that takes a seat."""
    settings = Settings(api_keys=SecretStr("admin:pear"))
    app = create_app(settings, engine or FakeEngine(), Seat(folder, worker, workers))
    with TestClient(app, headers={"X-API-Key": "pear"}, raise_server_exceptions=False) as client:
        wait_until(lambda: client.get("/health/ready").status_code == 200)
        yield client


def nothing(_: Order) -> None:
    """No networks are changed."""


def people(client: TestClient) -> float:
    """Answers of /pose, by all processes."""
    return value(client, "hrpose_people_count", route="/pose")


def test_either_tells_the_sum(tmp_path: Path, photo: bytes) -> None:
    with process(tmp_path, 0) as one, process(tmp_path, 1) as two:
        for client in (one, two, two):
            client.post("/pose", content=photo)
        for client in (one, two):
            assert people(client) == 3
            assert value(client, "hrpose_requests_total", route="/pose", status="200") == 3
            assert value(client, "hrpose_model_info", model="fast") == 1
            for worker in ("0", "1"):
                assert value(client, "process_open_fds", worker=worker) > 0


def test_a_process_alone_has_no_number(client: TestClient) -> None:
    assert "worker=" not in client.get("/metrics").text


def test_what_a_process_told_before_it_ended_stays_in_the_sum(tmp_path: Path, photo: bytes) -> None:
    with process(tmp_path, 0) as one:
        with process(tmp_path, 1) as two:
            for client in (one, two, two):
                client.post("/pose", content=photo)
            assert people(one) == 3
        assert people(one) == 3
        assert 'worker="1"' not in one.get("/metrics").text
        with process(tmp_path, 1) as successor:
            assert people(one) == people(successor) == 3
            successor.post("/pose", content=photo)
            assert people(one) == people(successor) == 4
        with process(tmp_path, 1) as next_one:
            assert people(one) == people(next_one) == 4


def test_one_that_does_not_answer_is_waited_for_no_longer_than_is_said(
    tmp_path: Path, photo: bytes
) -> None:
    with process(tmp_path, 0) as one, socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "1.socket"))
        silent.listen()
        one.post("/pose", content=photo)
        start = time.monotonic()
        assert people(one) == 1
        assert PATIENCE_S <= time.monotonic() - start < 20 * PATIENCE_S


@pytest.mark.parametrize("answer", [b"", b"# TYPE hrpose_x_total counter\nhrpose_x_total 1"])
def test_one_that_is_killed_while_it_speaks_is_left_out(tmp_path: Path, answer: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(tmp_path / "1.socket"))
        killed.listen()

        def own() -> bytes:
            connection, _ = killed.accept()
            connection.sendall(answer)
            connection.close()
            return b"# TYPE hrpose_y_total counter\nhrpose_y_total 2.0\n"

        text = Siblings(Seat(tmp_path, 0, 2), tmp_path, own, nothing).text().decode()
    assert "hrpose_y_total 2.0" in text
    assert "hrpose_x" not in text


def test_a_folder_that_is_gone_or_full_costs_only_the_others(tmp_path: Path, photo: bytes) -> None:
    with process(tmp_path / "gone", 0) as one:
        one.post("/pose", content=photo)
        assert people(one) == 1


def test_networks_are_changed_in_all_of_them(tmp_path: Path) -> None:
    engines = [FakeEngine() for _ in range(3)]
    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(process(tmp_path, n, 3, engine)) for n, engine in enumerate(engines)
        ]
        assert clients[0].post("/models/finder/load").json()["change"] == "unchanged"
        answer = clients[1].post("/models/finder/load", json={"force": True})
        assert answer.json()["change"] == "swapped"
        assert clients[2].post("/models/finder/unload").json()["change"] == "unloaded"
    expected = [("load", "finder"), ("force", "finder"), ("unload", "finder")]
    assert [engine.changes for engine in engines] == [expected] * 3


@pytest.mark.parametrize(
    ("fault", "words"),
    [(CheckpointError("finder is damaged"), "finder is damaged"), (OSError("/secret"), "the log")],
)
def test_one_that_cannot_change_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception, words: str
) -> None:
    def fail(*_: object) -> None:
        raise fault

    other = FakeEngine()
    monkeypatch.setattr(other, "load", fail)
    with process(tmp_path, 0) as one, process(tmp_path, 1, engine=other):
        detail = assert_problem(one.post("/models/finder/load"), 409, "conflict")["detail"]
    assert detail.startswith("not all processes")
    assert words in detail
    assert "secret" not in detail


def test_one_that_does_not_answer_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.siblings.CHANGE_S", 0.05)
    with socket.socket(socket.AF_UNIX) as deaf, process(tmp_path, 0) as one:
        deaf.bind(str(tmp_path / "1.socket"))
        deaf.listen()
        detail = assert_problem(one.post("/models/finder/load"), 409, "conflict")["detail"]
    assert detail.endswith("process 1 does not answer; ask again")


def test_several_that_cannot_meet_are_not_said_to_have_changed() -> None:
    seat = Seat(None, 0, 2)
    with TestClient(create_app(Settings(api_keys=SecretStr("admin:a")), FakeEngine(), seat)) as one:
        answer = one.post("/models/finder/load", headers={"X-API-Key": "a"})
    assert "cannot be told" in assert_problem(answer, 409, "conflict")["detail"]


def test_a_network_that_is_nowhere_any_more_is_ended_where_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(name: str) -> None:
        raise UnknownName("model", name, ())

    here, other = FakeEngine(), FakeEngine()
    with process(tmp_path, 0, engine=here) as one, process(tmp_path, 1, engine=other) as two:
        monkeypatch.setattr(here, "unload", gone)
        assert_problem(one.post("/models/finder/unload"), 404, "unknown-model")
        assert two.post("/models/finder/unload").json()["change"] == "unloaded"
    assert other.changes == [("unload", "finder")] * 2


def test_what_one_cannot_do_is_not_asked_of_the_others(tmp_path: Path) -> None:
    other = FakeEngine()
    with process(tmp_path, 0) as one, process(tmp_path, 1, engine=other):
        assert_problem(one.post("/models/broken/load"), 409, "bad-network")
        assert_problem(one.post("/models/fast/unload"), 409, "conflict")
    assert not other.changes


def test_one_that_is_gone_or_ending_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ending(*_: object) -> None:
        raise Unavailable("the networks are shutting down", 1.0)

    other = FakeEngine()
    monkeypatch.setattr(other, "load", ending)
    with process(tmp_path, 0, 3) as one, process(tmp_path, 1, 3, engine=other):
        assert one.post("/models/finder/load").status_code == 200
