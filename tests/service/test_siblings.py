"""Server processes that answer /metrics for each other: here two applications in one process."""

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from service.settings import Settings
from service.siblings import PATIENCE_S, Seat, Siblings
from tests.service.conftest import wait_until
from tests.service.fakes import FakeEngine
from tests.service.test_metrics import value


@contextlib.contextmanager
def process(folder: Path, worker: int, workers: int = 2) -> Iterator[TestClient]:
    """A client of an application that takes a seat."""
    app = create_app(Settings(), FakeEngine(), Seat(folder, worker, workers))
    with TestClient(app) as client:
        wait_until(lambda: client.get("/health/ready").status_code == 200)
        yield client


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

        text = Siblings(Seat(tmp_path, 0, 2), tmp_path, own).text().decode()
    assert "hrpose_y_total 2.0" in text
    assert "hrpose_x" not in text


def test_a_folder_that_is_gone_or_full_costs_only_the_others(tmp_path: Path, photo: bytes) -> None:
    with process(tmp_path / "gone", 0) as one:
        one.post("/pose", content=photo)
        assert people(one) == 1
