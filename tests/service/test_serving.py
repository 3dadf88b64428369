"""A server under real conditions: loading, full, left by its clients, told to stop."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import httpx2
import pytest
from fastapi.testclient import TestClient

from heads.errors import CheckpointError, WeightsMissing
from service.app import create_app
from service.errors import BeingLoaded, InvalidParameter, Overloaded
from service.inference.answers import PoseAnswer, PoseOptions
from service.inference.job import Job
from service.server import serve
from service.serving import CHANGES_AT_ONCE
from service.settings import Settings
from tests.processes import free_port
from tests.service.conftest import client_of, real_server, wait_until
from tests.service.fakes import FakeEngine

ROOT = Path(__file__).parents[2]
JPEG = {"content-type": "image/jpeg"}

Address = tuple[str, int]


@pytest.fixture
def narrow(engine: FakeEngine) -> Iterator[Address]:
    """A real server with room for one request at a time."""
    with real_server(Settings(max_requests=1, timeout_s=20), engine) as address:
        yield address


def url(address: Address, path: str = "/pose") -> str:
    return f"http://{address[0]}:{address[1]}{path}"


def send_head(address: Address, head: str, body: bytes = b"") -> socket.socket:
    """Opens a connection and sends the start of a request."""
    connection = socket.create_connection(address, timeout=10)
    connection.sendall(f"{head}\r\nHost: x\r\n\r\n".encode() + body)
    return connection


def start_stuck(address: Address, photo: bytes, engine: FakeEngine) -> socket.socket:
    """A request that is at work until its client leaves."""
    head = "POST /pose?model=stuck HTTP/1.1\r\nContent-Type: image/jpeg"
    connection = send_head(address, f"{head}\r\nContent-Length: {len(photo)}", photo)
    assert engine.working.acquire(timeout=10)
    return connection


def test_without_a_free_place_a_request_is_refused_at_once(
    narrow: Address, engine: FakeEngine, photo: bytes
) -> None:
    with closing(start_stuck(narrow, photo, engine)):
        start = time.monotonic()
        answer = httpx2.post(url(narrow), content=photo, headers=JPEG)
        assert answer.status_code == 429
        assert answer.headers["retry-after"] == "1"
        assert answer.json()["type"] == "/problems/overloaded"
        assert time.monotonic() - start < 2


def test_a_client_that_leaves_frees_its_place(
    narrow: Address, engine: FakeEngine, photo: bytes
) -> None:
    start_stuck(narrow, photo, engine).close()
    assert engine.dropped.acquire(timeout=5)
    wait_until(lambda: httpx2.post(url(narrow), content=photo, headers=JPEG).status_code == 200, 5)


def test_who_leaves_before_a_thread_has_begun_frees_its_place_and_is_no_work(
    engine: FakeEngine, photo: bytes
) -> None:
    engine.width = 1
    head = f"POST /pose HTTP/1.1\r\nContent-Type: image/jpeg\r\nContent-Length: {len(photo)}"
    with real_server(Settings(), engine) as address:

        def at_work() -> int:
            text = httpx2.get(url(address, "/metrics"), timeout=10).text
            line = next(x for x in text.splitlines() if x.startswith("hrpose_requests_at_work "))
            return int(float(line.split()[1]))

        with closing(start_stuck(address, photo, engine)):
            waiting = [send_head(address, head, photo) for _ in range(3)]
            wait_until(lambda: at_work() == 4)
            for connection in waiting:
                connection.close()
            wait_until(lambda: at_work() == 1)
        wait_until(lambda: at_work() == 0)
    assert len(engine.asked) == 1


class Arriving(FakeEngine):
    """`slow` is being loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.loading: Future[None] = Future()
        self.met = threading.Semaphore(0)

    def pose(self, data: bytes, model: str, options: PoseOptions, job: Job) -> PoseAnswer:
        """Answers at once, or says what to wait for."""
        if model == "slow" and not self.loading.done():
            self.met.release()
            raise BeingLoaded(model, self.loading)
        return super().pose(data, "fast", options, job)


@pytest.mark.parametrize("fault", [None, CheckpointError("slow.safetensors is damaged")])
def test_who_waits_for_a_network_keeps_no_thread_from_others(
    photo: bytes, fault: Exception | None
) -> None:
    engine = Arriving()
    engine.width = 1
    with real_server(Settings(), engine) as address, ThreadPoolExecutor(3) as pool:
        late = url(address, "/pose?model=slow")
        waiting = [pool.submit(httpx2.post, late, content=photo) for _ in range(3)]
        for _ in waiting:
            assert engine.met.acquire(timeout=10)
        assert httpx2.post(url(address), content=photo).status_code == 200
        assert not any(each.done() for each in waiting)
        if fault is None:
            engine.loading.set_result(None)
        else:
            engine.loading.set_exception(fault)
        wanted = 200 if fault is None else 409
        assert [each.result(10).status_code for each in waiting] == [wanted] * 3


def test_who_waits_for_a_network_waits_no_longer_than_a_request_may(photo: bytes) -> None:
    with real_server(Settings(timeout_s=0.3), Arriving()) as address:
        answer = httpx2.post(url(address, "/pose?model=slow"), content=photo)
    assert answer.status_code == 504


def test_a_client_that_leaves_while_sending_frees_its_place(narrow: Address, photo: bytes) -> None:
    head = "POST /pose HTTP/1.1\r\nContent-Type: image/jpeg\r\nContent-Length: 100000"
    connection = send_head(narrow, head, photo[:100])
    wait_until(lambda: httpx2.post(url(narrow), content=photo).status_code == 429, 5)
    connection.close()
    wait_until(lambda: httpx2.post(url(narrow), content=photo).status_code == 200, 5)


def test_work_never_stops_the_event_loop(narrow: Address, engine: FakeEngine, photo: bytes) -> None:
    with closing(start_stuck(narrow, photo, engine)):  # it would be over in 20 s
        for _ in range(10):
            assert httpx2.get(url(narrow, "/health/live"), timeout=10).status_code == 200


def test_a_body_without_a_length_is_refused_while_it_is_read(engine: FakeEngine) -> None:
    with real_server(Settings(max_upload_mb=1), engine) as address:
        head = "POST /pose HTTP/1.1\r\nContent-Type: image/jpeg\r\nTransfer-Encoding: chunked"
        chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
        with closing(send_head(address, head)) as connection:
            for _ in range(17):  # one chunk over a MiB, and the body has not ended
                connection.sendall(chunk)
            assert b"HTTP/1.1 413" in connection.recv(4096)


def test_a_promised_length_is_refused_before_anything_is_sent(narrow: Address) -> None:
    head = "POST /pose HTTP/1.1\r\nContent-Type: image/jpeg\r\nExpect: 100-continue"
    with closing(send_head(narrow, f"{head}\r\nContent-Length: 50000000")) as connection:
        assert connection.recv(4096).startswith(b"HTTP/1.1 413")


def test_a_body_that_never_ends_is_over_in_time(engine: FakeEngine) -> None:
    with real_server(Settings(timeout_s=0.3), engine) as address:
        head = "POST /pose HTTP/1.1\r\nContent-Type: image/jpeg\r\nContent-Length: 1000"
        with closing(send_head(address, head, b"half")) as connection:
            assert connection.recv(4096).startswith(b"HTTP/1.1 504")


def test_many_clients_at_once_each_get_their_own_answer(engine: FakeEngine, photo: bytes) -> None:
    wrong: list[str] = []

    def ask(client: httpx2.Client, at: int) -> None:
        answer = client.post(url(address), params={"boxes": f"[{at}, 5, 20, 30]"}, content=photo)
        if answer.status_code != 200 or answer.json()["people"][0]["box"][0] != at:
            wrong.append(answer.text)

    with real_server(Settings(), engine) as address, httpx2.Client() as client:
        threads = [threading.Thread(target=ask, args=(client, at)) for at in range(32)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_while_loading_it_lives_but_is_not_ready(photo: bytes) -> None:
    loading = threading.Event()
    engine = FakeEngine(loading=loading)
    with TestClient(create_app(Settings(), engine)) as client:
        assert client.get("/health/live").json() == {"status": "live"}
        assert client.get("/").status_code == 200
        for answer in (client.get("/health/ready"), client.post("/pose", content=photo)):
            assert answer.status_code == 503
            assert "being loaded" in answer.json()["detail"]
            assert int(answer.headers["retry-after"]) > 0
        loading.set()
        wait_until(lambda: client.get("/health/ready").status_code == 200)
        assert client.get("/health/ready").json() == {"status": "ready"}
        assert client.post("/pose", content=photo).status_code == 200
    assert engine.closed


def test_a_full_queue_is_not_ready(client: TestClient, engine: FakeEngine) -> None:
    engine.is_full = True
    assert client.get("/health/ready").status_code == 503
    assert client.get("/health/live").status_code == 200


def test_networks_that_cannot_be_loaded_end_the_server() -> None:
    class Empty(FakeEngine):
        def start(self) -> None:
            raise WeightsMissing("hrnet_w32", "hrpose weights get hrnet_w32")

    with pytest.raises(WeightsMissing):
        serve(create_app(Settings(port=0), Empty()))


def test_an_application_told_to_stop_finishes_what_it_accepted(
    engine: FakeEngine, photo: bytes
) -> None:
    app = create_app(Settings(), engine)
    statuses = []
    with TestClient(app) as client:
        wait_until(lambda: engine.ready and client.get("/health/ready").status_code == 200)
        accepted = threading.Thread(
            target=lambda: statuses.append(
                client.post("/pose?model=slow", content=photo).status_code
            )
        )
        accepted.start()
        assert engine.working.acquire(timeout=5)
        app.state.serving.drain()
        for answer in (client.get("/health/ready"), client.post("/pose", content=photo)):
            assert answer.status_code == 503
            assert answer.json()["type"] == "/problems/overloaded"
            assert "retry-after" in answer.headers
        accepted.join()
    assert statuses == [200]


def test_an_address_that_is_taken_is_said_before_networks_are_loaded(engine: FakeEngine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        app = create_app(Settings(port=port), engine)
        with pytest.raises(InvalidParameter, match=f"on 127.0.0.1, port {port}: Address already"):
            serve(app)
    assert not engine.ready


def test_sigterm_loses_nothing(photo: bytes) -> None:
    address = ("127.0.0.1", free_port())
    command = [sys.executable, "-m", "tests.service.serve_fake"]
    environment = {**os.environ, "HRPOSE_PORT": str(address[1])}
    with subprocess.Popen(command, cwd=ROOT, env=environment) as process:
        try:
            wait_until(lambda: _is_ready(address), 60)
            statuses: list[int] = []
            clients = [
                threading.Thread(
                    target=lambda: statuses.append(
                        httpx2.post(url(address, "/pose?model=slow"), content=photo).status_code
                    )
                )
                for _ in range(4)
            ]
            for thread in clients:
                thread.start()
            wait_until(lambda: _at_work(address) == len(clients))
            process.send_signal(signal.SIGTERM)
            wait_until(lambda: not _is_ready(address), 1.0)
            assert httpx2.post(url(address), content=photo).status_code == 503
            for thread in clients:
                thread.join()
            assert statuses == [200] * 4
            assert process.wait(10) == 0
        finally:
            process.kill()


def test_no_more_requests_change_networks_than_leave_threads_for_others(
    engine: FakeEngine,
) -> None:
    serving = create_app(Settings(), engine).state.serving
    with ExitStack() as changing:
        for _ in range(CHANGES_AT_ONCE):
            changing.enter_context(serving.changing())
        with pytest.raises(Overloaded), serving.changing():
            pass
    with serving.changing():
        pass


def test_a_thread_that_waits_for_something_else_keeps_no_server_from_ending() -> None:
    address = ("127.0.0.1", free_port())
    steps = """
import runpy, threading, time
threading.Thread(target=time.sleep, args=(60,)).start()  # as one that asks a name server
runpy.run_module("tests.service.serve_fake", run_name="__main__")
"""
    environment = {**os.environ, "HRPOSE_PORT": str(address[1])}
    with subprocess.Popen([sys.executable, "-c", steps], cwd=ROOT, env=environment) as process:
        try:
            wait_until(lambda: _is_ready(address), 60)
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()


@pytest.mark.parametrize("path", ["/pose?model=slow", "/models/slow/load"])
def test_who_is_not_answered_until_the_drain_is_over_is_told_so(photo: bytes, path: str) -> None:
    address = ("127.0.0.1", free_port())
    command = [sys.executable, "-m", "tests.service.serve_fake"]
    key = "a-key-that-may-load-networks"
    given = {"HRPOSE_PORT": str(address[1]), "HRPOSE_DRAIN_S": "0.2"}
    environment = {**os.environ, **given, "HRPOSE_API_KEYS": f"admin:{key}"}
    headers = {"Authorization": f"Bearer {key}"}
    body = photo if path.startswith("/pose") else b""
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        try:
            wait_until(lambda: _is_ready(address), 60)
            with ThreadPoolExecutor(1) as threads:
                asked = threads.submit(
                    httpx2.post, url(address, path), content=body, headers=headers, timeout=30
                )
                assert any(b"work begins" in line for line in process.stderr)
                process.send_signal(signal.SIGTERM)
                answer = asked.result()
            assert answer.status_code == 503
            assert answer.json()["type"] == "/problems/overloaded"
            assert answer.headers["retry-after"] == "1"
            assert process.wait(15) == 0
        finally:
            process.kill()


def _at_work(address: Address) -> int:
    text = httpx2.get(url(address, "/metrics")).text
    return int(float(text.rpartition("hrpose_requests_at_work ")[2].split()[0]))


def _is_ready(address: Address) -> bool:
    try:
        return httpx2.get(url(address, "/health/ready")).status_code == 200
    except httpx2.TransportError:
        return False


def test_each_application_has_an_engine_of_its_own(photo: bytes) -> None:
    one, two = FakeEngine(), FakeEngine()
    with client_of(Settings(), one) as first, client_of(Settings(max_people=1), two) as second:
        assert len(first.post("/pose", content=photo).json()["people"]) == 2
        assert len(second.post("/pose", content=photo).json()["people"]) == 1
    assert len(one.asked) == len(two.asked) == 1
