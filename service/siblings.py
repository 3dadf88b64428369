"""Server processes on one address tell each other what they counted, and change networks together.

Whichever takes a connection answers for all of them. Each listens on a socket of its own in a
private folder, and leaves there what it told last: what a process counted that is gone, or too busy
to answer, is not missing from the sum, which would look to Prometheus like a start from nought.
Who asks sends a line, COUNTED or a change as JSON; the answer ends with END.
"""

import asyncio
import contextlib
import json
import logging
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from models.errors import HrposeError, UnknownName
from service.entry import Entry
from service.errors import Conflict, Unavailable
from service.totals import total

log = logging.getLogger("hrpose")

PATIENCE_S = 0.5
"""A process that does not say for so long what it counted is left out."""

CHANGE_S = 600.0
"""As long may it take to load a network and to end its predecessor."""

ORDERS_AT_ONCE = 8
"""Changes that others asked for, carried out together."""

COUNTED = b"counted\n"

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


@dataclass(frozen=True)
class Order:
    """A network to load (force: also where its file is the same), or to unload."""

    name: str
    load: bool
    force: bool = False


class Siblings:
    """The processes as one of them sees them.

    seat: its own.  folder: where they meet.
    own: its own metrics as text.  change: loads or unloads a network of its own. Called in threads.
    """

    def __init__(
        self,
        seat: Seat,
        folder: Path,
        own: Callable[[], bytes],
        change: Callable[[Order], object],
    ) -> None:
        self._seat = seat
        self._folder = folder
        self._own = own
        self._change = change
        # Of their own: threads of requests may all wait for what other processes are told to do.
        self._orders = ThreadPoolExecutor(ORDERS_AT_ONCE, thread_name_prefix="order")
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
            self._orders.shutdown(wait=False, cancel_futures=True)

    def text(self) -> bytes:
        """What all of them counted, in Prometheus's text format. Blocks: it asks the others."""
        me, workers = self._seat.worker, self._seat.workers
        with ThreadPoolExecutor(workers) as threads:
            told = list(
                threads.map(
                    lambda n: self._tell() if n == me else self._counted_by(n),
                    range(workers),
                )
            )
        answers = {worker: text for worker, text in enumerate(told) if text}
        past = [self._left_by(n) for n in range(workers) if n not in answers]
        return total(answers, past).encode()

    def pass_on(self, order: Order) -> None:
        """Has all others carry out what this one did, and waits until they have.

        One that is gone is passed over: its successor reads the files as they are. Conflict where
        one cannot, with its reason, or does not answer.
        """
        line = json.dumps(asdict(order)).encode() + b"\n"
        others = [n for n in range(self._seat.workers) if n != self._seat.worker]
        with ThreadPoolExecutor(max(1, len(others))) as threads:
            said = list(threads.map(lambda n: self._order(n, line), others))
        if reasons := [text for text in dict.fromkeys(said) if text]:
            raise Conflict(f"not all processes of this server could: {'; '.join(reasons)}")

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readline()
        if line == COUNTED:
            said = await asyncio.to_thread(self._tell)
        else:
            said = await self._carry_out(line)
        writer.write((said + END).encode())
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        writer.close()

    async def _carry_out(self, line: bytes) -> str:
        """Why an order could not be carried out; nothing where it was."""
        try:
            order = Order(**json.loads(line))
            await asyncio.get_running_loop().run_in_executor(self._orders, self._change, order)
        except Unavailable:  # this process is about to end
            return ""
        except UnknownName as error:  # an order to unload what is not loaded here, and has no file
            return str(error) if order.load else ""
        except HrposeError as error:
            return str(error)
        except Exception:  # the top of a task: who asked is not to wait for ever
            log.exception("what another process asked for could not be done: %r", line)
            return "a fault, of which the log has more"
        return ""

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

    def _counted_by(self, worker: int) -> str:
        """What another process counted; nothing where it does not answer, or not in time."""
        with contextlib.suppress(OSError):
            return self._ask(worker, COUNTED, PATIENCE_S)
        return ""

    def _order(self, worker: int, line: bytes) -> str:
        """Why another process could not carry out an order; nothing where it did, or is gone."""
        try:
            return self._ask(worker, line, CHANGE_S)
        except (ConnectionError, FileNotFoundError):  # killed, or not there yet
            return ""
        except OSError:
            return f"process {worker} does not answer; ask again"

    def _ask(self, worker: int, line: bytes, patience_s: float) -> str:
        """What another process says; nothing where it was killed meanwhile."""
        with socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(patience_s)
            asking.connect(self._socket(worker))
            asking.sendall(line)
            text = b"".join(iter(lambda: asking.recv(2**16), b"")).decode(errors="replace")
            return text.removesuffix(END) if text.endswith(END) else ""

    def _left_by(self, worker: int) -> str:
        with contextlib.suppress(OSError):
            return self._left(worker).read_text(encoding="utf-8")
        return ""

    def _left(self, worker: int) -> Path:
        return self._folder / f"{worker}.txt"

    def _socket(self, worker: int) -> str:
        return str(self._folder / f"{worker}.socket")
