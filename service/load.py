"""What requests at work hold of the memory, and how fast they end: what a refusal says of both."""

import threading
import time

from service.errors import Overloaded
from service.settings import MIB

SMOOTHING = 0.2
"""Share of the newest value in the average."""

LEAST_RETRY_S = 1.0


class DrainRate:
    """Seconds from one finished request to the next, averaged; idle time does not count."""

    def __init__(self) -> None:
        self._seconds: float | None = None
        self._since = 0.0
        self._at_work = 0

    def begin(self) -> None:
        """A request took a place."""
        if self._at_work == 0:
            self._since = time.monotonic()
        self._at_work += 1

    def end(self) -> None:
        """Its work ended."""
        now = time.monotonic()
        self._at_work -= 1
        taken = now - self._since
        self._since = now
        if self._seconds is None:
            self._seconds = taken
        else:
            self._seconds += SMOOTHING * (taken - self._seconds)

    def retry_after_s(self, longest_s: float) -> float:
        """When the requests at work will have ended, at the speed of the latest; at least 1 s."""
        expected = (self._seconds or 0.0) * self._at_work
        return max(LEAST_RETRY_S, min(expected, longest_s))


class ByteBudget:
    """Bytes of bodies and fetched images that all requests together hold. Thread-safe."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held = 0
        self._lock = threading.Lock()

    @property
    def held(self) -> int:
        """Bytes held now."""
        return self._held

    def has_room_for(self, count: int) -> bool:
        """Whether so many more would fit now."""
        return self._held + count <= self._max_bytes

    def take(self, count: int) -> bool:
        """Counts bytes; False, and nothing counted, where they do not fit."""
        with self._lock:
            fits = self.has_room_for(count)
            self._held += count * fits
            return fits

    def give(self, count: int) -> None:
        """Bytes that nobody holds any more."""
        with self._lock:
            self._held -= count

    def refusal(self, retry_after_s: float) -> Overloaded:
        """What is said where bytes do not fit."""
        return Overloaded(
            f"the requests at work hold all of max_queue_mb = {self._max_bytes / MIB:g} MiB",
            retry_after_s,
        )
