"""One request on its way through the pipeline: how long it may take, and whether anybody waits."""

import threading
import time
from collections.abc import Callable

from service.errors import Cancelled, DeadlineExceeded


class Job:
    """A deadline and a switch, shared by every step of one request. Thread-safe.

    timeout_s: seconds from now until the work is not worth doing; None is no limit.
    may_block: False where who does the work is not to wait in its thread for a network that is
    being loaded, but gets BeingLoaded, and is called again.
    """

    def __init__(self, timeout_s: float | None = None, *, may_block: bool = True) -> None:
        self.timeout_s = timeout_s
        self.may_block = may_block
        self._deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self._lock = threading.Lock()
        self._cancelled = False
        self._when_cancelled: list[Callable[[], None]] = []

    def cancel(self) -> None:
        """Says that nobody waits any more: queued work of this job is dropped."""
        with self._lock:
            self._cancelled = True
            calls, self._when_cancelled = self._when_cancelled, []
        for call in calls:
            call()

    def when_cancelled(self, call: Callable[[], None]) -> None:
        """Calls, by the thread that cancels, when nobody waits any more; at once if so already."""
        with self._lock:
            if not self._cancelled:
                self._when_cancelled.append(call)
                return
        call()

    @property
    def remaining_s(self) -> float | None:
        """Seconds left, never negative; None where there is no deadline."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def check(self) -> None:
        """Raises Cancelled or DeadlineExceeded once the work is not worth doing."""
        if self._cancelled:
            raise Cancelled("the client went away")
        if self._deadline is not None and time.monotonic() >= self._deadline:
            raise DeadlineExceeded(f"not answered within {self.timeout_s:g} s")
