"""Which of several server processes take connections when."""

import multiprocessing
import threading

import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from service.entry import Entry
from service.settings import Settings
from service.siblings import Seat
from tests.service.conftest import wait_until
from tests.service.fakes import FakeEngine


def entries() -> tuple[Entry, Entry]:
    """Of the process that answers at once, and of another."""
    opened, opens = multiprocessing.Pipe(duplex=False)
    return Entry(opened, opens, at_once=True), Entry(opened, opens, at_once=False)


def test_the_others_begin_when_they_and_the_first_are_ready() -> None:
    first, other = entries()
    assert first.admits(ready=False)
    assert not other.admits(ready=True)
    other.loaded()
    assert not other.admits(ready=True)
    first.loaded()
    assert other.admits(ready=True)
    assert not other.admits(ready=False)


def test_opened_again_and_again_nothing_is_full() -> None:
    first, other = entries()
    for _ in range(100_000):  # more than a pipe holds
        first.open()
    assert other.admits(ready=True)


class SlowEngine(FakeEngine):
    """Loads until it is told that it has."""

    def __init__(self) -> None:
        super().__init__()
        self.may_start = threading.Event()

    def start(self) -> None:
        """Blocks."""
        self.may_start.wait(30)
        super().start()


def test_an_application_begins_when_its_entry_admits_it() -> None:
    first, other = entries()
    engine = SlowEngine()
    begun = threading.Event()
    told: list[int] = []

    def live() -> None:
        app = create_app(Settings(), engine, Seat(None, 1, 2, other))
        with TestClient(app) as client:
            begun.set()
            told.append(client.get("/health/ready").status_code)

    living = threading.Thread(target=live)
    living.start()
    first.loaded()
    assert not begun.wait(0.2)
    engine.may_start.set()
    assert begun.wait(30)
    living.join()
    assert told == [200]


@pytest.mark.parametrize("ready", [True, False])
def test_one_that_cannot_load_begins_only_to_end(ready: bool) -> None:
    class Broken(FakeEngine):
        def start(self) -> None:
            raise RuntimeError("no such network")

    first, other = entries()
    if ready:
        first.loaded()
    app = create_app(Settings(), Broken(), Seat(None, 1, 2, other))
    with TestClient(app) as client:
        wait_until(lambda: app.state.serving.failure is not None)
        assert client.get("/health/ready").status_code == 503
