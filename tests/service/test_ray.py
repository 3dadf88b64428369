"""Replicas on Ray Serve: requests survive the death of a replica, and a stop."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
from fastapi import Response
from pydantic import SecretStr
from starlette.requests import Request
from starlette.types import Message

from service.app import create_app
from service.asgi import Answered, Sent, ask
from service.settings import Settings
from tests.conftest import ROOT
from tests.processes import free_port
from tests.service.conftest import wait_until
from tests.service.fakes import FakeEngine


def test_a_request_by_hand_is_answered_as_over_http(photo: bytes) -> None:
    app = create_app(Settings(), engine := FakeEngine())
    engine.start()

    async def answered() -> Any:
        async with app.state.serving.lifespan():
            await asyncio.sleep(0.1)
            sent = Sent("POST", "/pose", b"max_people=1", [], photo)
            return await ask(app, sent, asyncio.Event().wait)

    answer = asyncio.run(answered())
    assert answer.status == 200
    assert answer.body.count(b'"box"') == 1


class SlowEngine(FakeEngine):
    """Takes a second for each request, and tells its process."""

    def classify(self, data: bytes, model: str | None, top_k: int, job: Any) -> Any:
        """The first class is named by the process."""
        time.sleep(1.0)
        answer = super().classify(data, model, top_k, job)
        first = type(answer.classes[0])(os.getpid(), "process", 1.0)
        return type(answer)(**{**vars(answer), "classes": (first,)})


@pytest.fixture
def address() -> Iterator[str]:
    ray = pytest.importorskip("ray", reason="needs ray[serve]")
    serve = pytest.importorskip("ray.serve", reason="needs ray[serve]")
    from service.ray_app import build

    port = free_port()
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(build(Settings(replicas=2), SlowEngine), name="hrpose", route_prefix="/")
        yield f"http://127.0.0.1:{port}"
        serve.shutdown()
    finally:
        ray.shutdown()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_no_accepted_request_is_lost_when_a_replica_is_killed(address: str, photo: bytes) -> None:
    client = httpx2.Client(timeout=120)

    def process() -> int:
        answer = client.post(f"{address}/classify", content=photo)
        assert answer.status_code == 200, answer.text
        found: int = answer.json()["classes"][0]["index"]
        return found

    assert client.get(f"{address}/health/ready").status_code == 200
    assert client.post(f"{address}/pose", content=b"no image").status_code == 400
    processes: set[int] = set()

    def both_were_seen() -> bool:
        processes.add(process())
        return len(processes) == 2

    wait_until(both_were_seen, 60)
    results: list[Any] = []

    def load() -> None:
        for _ in range(4):
            try:
                results.append(process())
            except Exception as error:  # the test shows whatever it is
                results.append(error)

    threads = [threading.Thread(target=load) for _ in range(6)]
    for thread in threads:
        thread.start()
    time.sleep(1.5)  # requests are at work in both
    os.kill(victim := processes.pop(), signal.SIGKILL)
    for thread in threads:
        thread.join()
    assert [r for r in results if not isinstance(r, int)] == []
    assert len(results) == 24
    assert victim not in results[-6:]


class HeldReplicas:
    """In the place of replicas: one that answers when it may."""

    def __init__(self) -> None:
        self.asked = asyncio.Semaphore(0)
        self.may_answer = asyncio.Event()

    @property
    def answer(self) -> "HeldReplicas":
        """A method as Ray has it."""
        return self

    async def remote(self, sent: Sent) -> Answered:
        """Its path is the answer."""
        self.asked.release()
        await self.may_answer.wait()
        return Answered(200, [], sent.path.encode())


def request(path: str, method: str = "GET", body: bytes = b"", **headers: str) -> Request:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": b"",
        "headers": [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()],
    }
    return Request(scope, receive)


def refused(settings: Settings, request: Request) -> Response:
    """What a front answers without asking its replicas, which never answer."""
    pytest.importorskip("ray.serve", reason="needs ray[serve]")
    from service.ray_app import Front

    return asyncio.run(Front(HeldReplicas(), settings)(request))


@pytest.mark.parametrize(
    ("changes", "asked", "status"),
    [
        ({"api_keys": "secret"}, request("/pose", "POST", b"x"), 401),
        ({"api_keys": "secret"}, request("/pose", "POST", b"x", x_api_key="no"), 403),
        ({"max_upload_mb": 1}, request("/pose", "POST", bytes(2**21)), 413),
        ({"max_upload_mb": 8, "max_queue_mb": 8}, request("/pose", content_length="8388609"), 413),
        ({"timeout_s": 0.2}, request("/pose", "POST", b"x"), 504),
        ({}, request("/models/fast/load", "POST"), 409),
        ({}, request("/models/fast/unload", "POST"), 409),
    ],
)
def test_what_a_front_refuses_looks_like_other_refusals(
    changes: dict[str, Any], asked: Request, status: int
) -> None:
    answer = refused(Settings(**changes), asked)
    assert answer.status_code == status
    assert answer.media_type == "application/problem+json"
    assert len(answer.headers["x-request-id"]) == 32
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_front_refuses_in_the_form_of_the_protocol() -> None:
    settings = Settings(api_keys=SecretStr("secret"))
    answer = refused(settings, request("/v2/models/fast/infer", "POST"))
    assert answer.status_code == 401
    assert list(json.loads(bytes(answer.body))) == ["error"]


def test_a_front_bounds_the_bytes_of_all_that_it_holds() -> None:
    pytest.importorskip("ray.serve", reason="needs ray[serve]")
    from service.ray_app import Front, most_replicas

    async def asked() -> None:
        settings = Settings(max_upload_mb=8, max_queue_mb=8, replicas=3)
        front = Front(replicas := HeldReplicas(), settings)
        room = most_replicas(settings)
        bodies = [front(request("/pose", "POST", bytes(8 * 2**20))) for _ in range(room)]
        held = [asyncio.ensure_future(body) for body in bodies]
        for _ in held:
            await replicas.asked.acquire()
        assert (await front(request("/pose", "POST", b"x"))).status_code == 429
        replicas.may_answer.set()
        assert [answer.status_code for answer in await asyncio.gather(*held)] == [200] * room
        assert (await front(request("/pose", "POST", b"x"))).status_code == 200

    asyncio.run(asked())


def test_a_front_that_drains_finishes_what_it_holds_and_refuses_the_rest() -> None:
    pytest.importorskip("ray.serve", reason="needs ray[serve]")
    from service.ray_app import Front

    async def drained() -> None:
        front = Front(replicas := HeldReplicas(), Settings())
        held = asyncio.ensure_future(front(request("/models")))
        await replicas.asked.acquire()
        assert await front.drain() == 1
        for path in ("/health/ready", "/models"):
            refused = await front(request(path))
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        assert await front.drain() == 1
        replicas.may_answer.set()
        assert (await held).body == b"/models"
        assert await front.drain() == 0
        assert (await front(request("/health/live"))).status_code == 200

    asyncio.run(drained())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_server_on_ray_that_is_told_to_stop_finishes_what_it_accepted(photo: bytes) -> None:
    pytest.importorskip("ray.serve", reason="needs ray[serve]")
    address = f"http://127.0.0.1:{(port := free_port())}"
    client = httpx2.Client(timeout=60)

    def is_ready() -> bool:
        with contextlib.suppress(httpx2.TransportError):
            return client.get(f"{address}/health/ready").status_code == 200
        return False

    def pose(model: str) -> int:
        return httpx2.post(f"{address}/pose?model={model}", content=photo, timeout=60).status_code

    def at_work() -> float:
        text = client.get(f"{address}/metrics").text
        return float(text.rpartition("hrpose_requests_at_work ")[2].split()[0])

    command = [sys.executable, "-m", "tests.service.serve_ray"]
    environment = {**os.environ, "HRPOSE_PORT": str(port)}
    with (
        subprocess.Popen(command, cwd=ROOT, env=environment) as process,
        ThreadPoolExecutor(4) as threads,
    ):
        try:
            wait_until(is_ready, 120)
            accepted = [threads.submit(pose, "slow") for _ in range(4)]
            wait_until(lambda: at_work() == len(accepted), 4.0)
            process.send_signal(signal.SIGTERM)
            wait_until(lambda: not is_ready(), 2.0)
            assert client.get(f"{address}/health/live").status_code == 200
            assert pose("fast") == 503
            assert not any(one.done() for one in accepted)
            assert [one.result() for one in accepted] == [200] * 4
            assert process.wait(60) == 0
        finally:
            process.kill()
