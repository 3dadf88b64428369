"""Turns at a device, first come first served."""

import threading
from collections import deque
from types import TracebackType


class Turns:
    """Lets so many in at once, in the order they came. Thread-safe.

    threading.Semaphore lets in who is quickest, and that is mostly who has just left: a busy
    network would keep another, or the one that is to take its place, waiting for seconds.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._lock = threading.Lock()
        self._waiting: deque[threading.Lock] = deque()

    def __enter__(self) -> bool:
        with self._lock:
            if self._free:
                self._free -= 1
                return True
            gate = threading.Lock()
            gate.acquire()
            self._waiting.append(gate)
        gate.acquire()  # released by who leaves, whose place this then is
        return True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._free += 1
