"""Whom the supervisor tells what, and how often: with processes that are none."""

import errno
import os
import signal
import socket
from collections.abc import Callable, Iterator

import pytest

from service import logs
from service.errors import InvalidParameter
from service.settings import Settings
from service.supervisor import PAUSE_S, Supervisor

NOBODY = 2**30
"""No process of this machine has this number, or one above it."""


class FakeProcess:
    """Lives until it is told to end; notes what it is told."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.told: list[int] = []
        self.exitcode: int | None = None
        self.sentinel, self._alive = os.pipe()

    def start(self) -> None:
        """It has."""

    def is_alive(self) -> bool:
        """Nobody has ended it."""
        return self.exitcode is None

    def end(self, exitcode: int) -> None:
        """As if it had ended."""
        self.exitcode = exitcode
        os.close(self._alive)

    def join(self, timeout: float | None = None) -> None:
        """Ends at once if it was told to."""
        if self.exitcode is None:
            assert self.told, f"{self.pid} was not told, and would be killed in {timeout} s"
            self.end(0)

    def kill(self) -> None:
        """Not needed."""
        raise AssertionError(f"{self.pid} was killed")


class Fakes:
    """Starts no processes, and signals none.

    at_start: what happens while the process of that number starts.
    """

    def __init__(self) -> None:
        self.all: list[FakeProcess] = []
        self.at_start: dict[int, Callable[[], object]] = {}

    def Process(self, **_: object) -> FakeProcess:
        """One more."""
        number = len(self.all)
        self.all.append(FakeProcess(NOBODY + number))
        self.at_start.get(number, lambda: None)()
        return self.all[number]

    def kill(self, pid: int, number: int) -> None:
        """Notes it."""
        self.all[pid - NOBODY].told.append(number)

    @property
    def told(self) -> list[list[int]]:
        """What each was told."""
        return [process.told for process in self.all]


class Pause:
    """The second before a successor: takes no time, and signals come in it where any are to."""

    signals: tuple[int, ...] = ()

    def sleep(self, _: float) -> None:
        """Once, for the whole second."""
        for number in self.signals:
            signal.raise_signal(number)

    def monotonic(self) -> float:
        """Half of it is over each time that this is asked."""
        self._now += PAUSE_S / 2
        return self._now

    _now = 0.0


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fakes]:
    """Processes, signals and log are not those of the tests' own process."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    fakes = Fakes()
    monkeypatch.setattr(os, "kill", fakes.kill)
    monkeypatch.setattr(logs, "install", lambda *_: None)
    yield fakes
    for number, handler in handlers.items():
        signal.signal(number, handler)
    for process in fakes.all:
        os.close(process.sentinel)


@pytest.fixture
def pause() -> Pause:
    return Pause()


@pytest.fixture
def supervisor(fakes: Fakes, pause: Pause, monkeypatch: pytest.MonkeyPatch) -> Supervisor:
    """Of two processes; the first is killed while the second starts."""
    supervisor = Supervisor(Settings(port=0, workers=2), lambda *_: None)
    monkeypatch.setattr(supervisor, "_spawning", fakes)
    monkeypatch.setattr("service.supervisor.time", pause)
    fakes.at_start[1] = lambda: fakes.all[0].end(-signal.SIGKILL)
    return supervisor


def test_a_stop_before_a_successor_starts_is_told_once_and_nobody_starts(
    supervisor: Supervisor, fakes: Fakes, pause: Pause
) -> None:
    pause.signals = (signal.SIGTERM,)
    assert supervisor.run() == 0
    assert fakes.told == [[], [signal.SIGTERM]]


def test_a_stop_while_a_successor_starts_is_told_to_each_once(
    supervisor: Supervisor, fakes: Fakes
) -> None:
    fakes.at_start[2] = lambda: signal.raise_signal(signal.SIGTERM)
    assert supervisor.run() == 0
    assert fakes.told == [[], [signal.SIGTERM], [signal.SIGTERM]]


def test_a_successor_that_cannot_be_started_is_tried_again(
    supervisor: Supervisor, fakes: Fakes, caplog: pytest.LogCaptureFixture
) -> None:
    def no_memory() -> None:
        fakes.all[2].told.append(-1)  # was never there
        fakes.all[2].end(1)
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    fakes.at_start[2] = no_memory
    fakes.at_start[3] = lambda: signal.raise_signal(signal.SIGTERM)
    assert supervisor.run() == 0
    assert "no process could take its place: [Errno 11]" in caplog.text
    assert fakes.told == [[], [signal.SIGTERM], [-1], [signal.SIGTERM]]


def test_where_not_all_can_be_started_none_stays(supervisor: Supervisor, fakes: Fakes) -> None:
    def no_memory() -> None:
        fakes.all[1].end(1)
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    fakes.at_start[1] = no_memory
    with pytest.raises(BlockingIOError):
        supervisor.run()
    assert fakes.told[0] == [signal.SIGTERM]


def test_a_second_stop_is_passed_on(supervisor: Supervisor, fakes: Fakes, pause: Pause) -> None:
    pause.signals = (signal.SIGINT, signal.SIGINT)
    assert supervisor.run() == 0
    assert fakes.told == [[], [signal.SIGINT, signal.SIGINT]]


def test_a_process_with_a_fault_of_its_own_ends_the_others(
    supervisor: Supervisor, fakes: Fakes
) -> None:
    fakes.at_start[1] = lambda: fakes.all[0].end(3)
    assert supervisor.run() == 3
    assert fakes.told == [[], [signal.SIGTERM]]


def test_a_fault_of_a_successor_leaves_the_others_alone(
    supervisor: Supervisor, fakes: Fakes, caplog: pytest.LogCaptureFixture
) -> None:
    """The first was ready and is killed; what its successor misses is there for the third."""

    def killed_when_ready() -> None:
        supervisor._entry().open()
        fakes.all[0].end(-signal.SIGKILL)

    fakes.at_start[1] = killed_when_ready
    fakes.at_start[2] = lambda: fakes.all[2].end(1)
    fakes.at_start[3] = lambda: signal.raise_signal(signal.SIGTERM)
    assert supervisor.run() == 0
    assert fakes.told == [[], [signal.SIGTERM], [], [signal.SIGTERM]]
    assert f"process {fakes.all[2].pid} ended (1); another takes its place" in caplog.text


@pytest.mark.parametrize("host", ["127.0.0.1", "nowhere.invalid"])
def test_an_address_that_cannot_be_had_is_said(fakes: Fakes, host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = Settings(host=host, port=port, workers=2)
        with pytest.raises(InvalidParameter, match=rf"on {host}, port {port}: \w+"):
            Supervisor(settings, lambda *_: None).run()
    assert fakes.all == []
