"""Replicas on Ray Serve: requests survive the death of a replica."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from service.app import create_app
from service.asgi import Sent, ask
from service.settings import Settings
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
