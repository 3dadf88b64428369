"""Several server processes on one address, and who looks after them.

Each is a whole server with networks of its own, and the kernel hands connections to whichever is
free. One that is killed is replaced; what it was answering is cut off, the others do not notice.
Its successor takes connections when it is ready.
"""

import contextlib
import logging
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType

from service import logs
from service.entry import Entry
from service.inference.cores import cores
from service.server import listen
from service.settings import Settings
from service.siblings import Seat

log = logging.getLogger("hrpose")

PAUSE_S = 1.0
"""Between the death of a process and its successor, so that a fault at start is no busy loop."""

FAULT_PAUSE_S = 10.0
"""The same after a successor that ended by itself: what it lacks is hardly there a second later."""

TICK_S = 0.05

GRACE_S = 10.0
"""Beyond the drain, processes have this long to end before they are killed."""

Serve = Callable[[Settings, socket.socket, Seat], None]


class Supervisor:
    """Runs `settings.workers` processes until told to stop.

    A fault of a process before the address was ready, as a wrong setting, ends all. Later it is a
    reason to try again: the others do not need what its successor did not find, memory, a file.

    serve: what each runs, with the listening socket and its seat among the others; a function that
    can be pickled.
    """

    def __init__(self, settings: Settings, serve: Serve) -> None:
        if not settings.threads:  # cores are shared, not each taken by everybody
            threads = max(1, cores() // settings.workers)
            settings = settings.model_copy(update={"threads": threads})
        self._settings = settings
        self._serve = serve
        self._told: set[int | None] = set()
        self._spawning = multiprocessing.get_context("spawn")
        self._processes: list[BaseProcess] = []
        self._stopping = False
        self._folder: Path | None = None
        self._opened, self._opens = multiprocessing.Pipe(duplex=False)

    def run(self) -> int:
        """Blocks; the exit status: 0, or that of a process whose fault kept all from starting."""
        logs.install(self._settings.log_level, self._settings.log_format)
        with _meeting_folder() as self._folder:
            try:
                with listen(self._settings) as listening:
                    host, port = listening.getsockname()[:2]
                    log.info("%d processes serve %s:%d", self._settings.workers, host, port)
                    for number in (signal.SIGTERM, signal.SIGINT):
                        signal.signal(number, self._told_to_stop)
                    for worker in range(self._settings.workers):
                        begun = self._start(listening, worker, at_once=worker == 0)
                        self._processes.append(begun)
                    return self._look_after(listening)
            finally:
                self._end()

    def _start(self, listening: socket.socket, worker: int, at_once: bool = False) -> BaseProcess:
        entry = self._entry(at_once)
        seat = Seat(self._folder, worker, self._settings.workers, entry)
        process = self._spawning.Process(
            target=_work, args=(self._serve, self._settings, listening, seat), daemon=False
        )
        process.start()
        return process

    def _entry(self, at_once: bool = False) -> Entry:
        return Entry(self._opened, self._opens, at_once)

    def _look_after(self, listening: socket.socket) -> int:
        """Replaces what was killed; returns when all is to end."""
        while not self._stopping:
            wait([process.sentinel for process in self._processes], timeout=0.5)
            for at, process in enumerate(self._processes):
                if process.exitcode is None or self._stopping:
                    continue
                by_itself = process.exitcode > 0
                if by_itself and not self._opened.poll():
                    return process.exitcode
                log.error(
                    "process %s ended (%d); another takes its place", process.pid, process.exitcode
                )
                if self._pause(FAULT_PAUSE_S if by_itself else PAUSE_S):
                    return 0
                if at == 0:  # nobody is left who would answer before it is ready
                    self._entry().open()
                try:
                    self._processes[at] = self._start(listening, at)
                except OSError as error:  # no memory, too many processes: tried again
                    log.error("no process could take its place: %s", error)
        return 0

    def _pause(self, seconds: float) -> bool:
        """Waits before a successor starts; True where all is to end, at once then.

        Without an Event: its lock could be held by what the signal interrupts.
        """
        end = time.monotonic() + seconds
        while not self._stopping and time.monotonic() < end:
            time.sleep(TICK_S)
        return self._stopping

    def _told_to_stop(self, number: int, _: FrameType | None) -> None:
        """The first signal asks the processes to finish, and the second one not to."""
        self._stopping = True
        self._tell(number, self._processes)

    def _tell(self, number: int, processes: Sequence[BaseProcess]) -> None:
        for process in list(processes):
            self._told.add(process.pid)
            if process.is_alive() and process.pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, number)

    def _end(self) -> None:
        # Only who does not know yet: told again, a server would not finish what it accepted.
        self._tell(signal.SIGTERM, [p for p in self._processes if p.pid not in self._told])
        end = time.monotonic() + self._settings.drain_s + GRACE_S
        for process in self._processes:
            process.join(max(0.0, end - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()


@contextlib.contextmanager
def _meeting_folder() -> Iterator[Path | None]:
    """Where processes find each other, for nobody else; None where there is no room for it."""
    with contextlib.ExitStack() as stack:
        folder: Path | None = None
        try:
            made = tempfile.TemporaryDirectory(prefix="hrpose-", ignore_cleanup_errors=True)
            folder = Path(stack.enter_context(made))
        except OSError as error:
            log.warning("each process will answer /metrics for itself only: %s", error)
        yield folder


def _work(serve: Serve, settings: Settings, listening: socket.socket, seat: Seat) -> None:
    """What a process does: serves, and ends with its supervisor."""
    os.setpgrp()  # Ctrl-C is for the supervisor, which tells the others
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=follow, name="supervisor", daemon=True).start()
    logs.install(settings.log_level, settings.log_format)
    try:
        serve(settings, listening, seat)
    except Exception as error:  # the top of a process: said once, by its supervisor's status
        log.error("%s", error)
        sys.exit(1)
    finally:
        if seat.folder and not parent.is_alive():  # else its supervisor does it
            shutil.rmtree(seat.folder, ignore_errors=True)
