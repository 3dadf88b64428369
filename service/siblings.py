"""Server processes on one address tell each other what they counted.

Whichever takes a connection answers for all of them. Each listens on a socket of its own in a
private folder, and leaves there what it told last: what a process counted that is gone, or too busy
to answer, is not missing from the sum, which would look to Prometheus like a start from nought.
"""

import asyncio
import contextlib
import logging
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from service.entry import Entry
from service.totals import total

log = logging.getLogger("hrpose")

PATIENCE_S = 0.5
"""A process that does not answer for so long is left out."""

END = "# EOF\n"
"""Ends what is told; without it the process was killed while it spoke."""


@dataclass(frozen=True)
class Seat:
    """Which of how many processes one is.

    folder: where they meet; None where there was no room for it.
    entry: when it may take connections; None is at once.
    """

    folder: Path | None
    worker: int
    workers: int
    entry: Entry | None = None


class Siblings:
    """The processes as one of them sees them.

    seat: its own.  folder: where they meet.
    own: its own metrics as text; called in threads.
    """

    def __init__(self, seat: Seat, folder: Path, own: Callable[[], bytes]) -> None:
        self._seat = seat
        self._folder = folder
        self._own = own
        self._lock = threading.Lock()  # what is left is never older than what was told
        self._before = self._left_by(seat.worker)  # whose place this one took

    @contextlib.asynccontextmanager
    async def answering(self) -> AsyncIterator[None]:
        """Others are answered meanwhile."""
        try:
            server = await asyncio.start_unix_server(self._answer, self._socket(self._seat.worker))
        except OSError as error:
            log.warning("/metrics of other processes will not count this one: %s", error)
            yield
            return
        try:
            yield
        finally:
            server.close()

    def text(self) -> bytes:
        """What all of them counted, in Prometheus's text format. Blocks: it asks the others."""
        me, workers = self._seat.worker, self._seat.workers
        with ThreadPoolExecutor(workers) as threads:
            told = list(
                threads.map(lambda n: self._tell() if n == me else self._ask(n), range(workers))
            )
        answers = {worker: text for worker, text in enumerate(told) if text}
        past = [self._left_by(n) for n in range(workers) if n not in answers]
        return total(answers, past).encode()

    async def _answer(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await asyncio.to_thread(self._tell) + END).encode())
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        writer.close()

    def _tell(self) -> str:
        """What this process counted, and those before it in its place."""
        left = self._left(self._seat.worker)
        with self._lock:
            text = total({self._seat.worker: self._own().decode()}, [self._before])
            with contextlib.suppress(OSError):  # a full disk: it will miss from the sum if it dies
                new = left.with_suffix(".new")
                new.write_text(text, encoding="utf-8")
                os.replace(new, left)
        return text

    def _ask(self, worker: int) -> str:
        """What another process tells; nothing where it does not answer, or not in time."""
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(PATIENCE_S)
            asking.connect(self._socket(worker))
            text = b"".join(iter(lambda: asking.recv(2**16), b"")).decode(errors="replace")
            return text if text.endswith(END) else ""
        return ""

    def _left_by(self, worker: int) -> str:
        with contextlib.suppress(OSError):
            return self._left(worker).read_text(encoding="utf-8")
        return ""

    def _left(self, worker: int) -> Path:
        return self._folder / f"{worker}.txt"

    def _socket(self, worker: int) -> str:
        return str(self._folder / f"{worker}.socket")
