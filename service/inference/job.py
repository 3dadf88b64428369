"""One request on its way through the pipeline: how long it may take, and whether anybody waits."""

import threading
import time

from service.errors import Cancelled, DeadlineExceeded


class Job:
    """A deadline and a switch, shared by every step of one request. Thread-safe.

    timeout_s: seconds from now until the work is not worth doing; None is no limit.
    """

    def __init__(self, timeout_s: float | None = None) -> None:
        self.timeout_s = timeout_s
        self._deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Says that nobody waits any more: queued work of this job is dropped."""
        self._cancelled.set()

    @property
    def remaining_s(self) -> float | None:
        """Seconds left, never negative; None where there is no deadline."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def check(self) -> None:
        """Raises Cancelled or DeadlineExceeded once the work is not worth doing."""
        if self._cancelled.is_set():
            raise Cancelled("the client went away")
        if self._deadline is not None and time.monotonic() >= self._deadline:
            raise DeadlineExceeded(f"not answered within {self.timeout_s:g} s")
