"""Clients, images and a real server for the tests of the HTTP layer."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import uvicorn
from fastapi.testclient import TestClient

from heads.image import encode_image
from service.app import create_app
from service.connections import protocol_of
from service.errors import Overloaded
from service.serving import PoseEngine, Serving
from service.settings import Settings
from tests.service.fakes import FakeEngine

WIDTH, HEIGHT = 320, 240


def make_photo(kind: str = "jpeg", width: int = WIDTH, height: int = HEIGHT) -> bytes:
    """An image file of a soft gradient."""
    rows = np.linspace(60, 180, height, dtype=np.float32)[:, None]
    columns = np.linspace(0, 60, width, dtype=np.float32)[None, :]
    image = np.repeat((rows + columns)[..., None], 3, axis=2).astype(np.uint8)
    return encode_image(image, kind)  # type: ignore[arg-type]


@contextlib.contextmanager
def client_of(settings: Settings, engine: PoseEngine) -> Iterator[TestClient]:
    """A client of a started application whose networks are loaded."""
    with TestClient(create_app(settings, engine), raise_server_exceptions=False) as client:
        wait_until(lambda: engine.ready and client.get("/health/ready").status_code == 200, 120)
        yield client


def wait_until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Waits for what another thread does; fails the test if it does not come."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


@contextlib.contextmanager
def real_server(settings: Settings, engine: PoseEngine) -> Iterator[tuple[str, int]]:
    """A uvicorn in a thread, on a free port of this machine."""
    app = create_app(settings, engine)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            app,
            log_config=None,
            timeout_graceful_shutdown=2,
            http=protocol_of(settings),
            ws="none",
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            wait_until(lambda: server.started and _is_ready(app.state.serving), timeout_s=120)
            yield listening.getsockname()
        finally:
            server.should_exit = True
            thread.join(10)


def _is_ready(serving: Serving) -> bool:
    """A request sent now would be taken; the engine is ready a little earlier."""
    with contextlib.suppress(Overloaded):
        serving.check_ready()
        return True
    return False


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def client(engine: FakeEngine) -> Iterator[TestClient]:
    with client_of(Settings(), engine) as started:
        yield started


@pytest.fixture(scope="session")
def photo() -> bytes:
    """A JPEG of 320 x 240 pixels."""
    return make_photo()
