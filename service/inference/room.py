"""Room for the pixels of photographs: what is decoded is bounded, whatever is sent at once.

A body of a hundred kilobytes may unfold into 150 MB; so it waits, as a body, until there is room.
"""

import threading
from collections import deque

from service.errors import DeadlineExceeded
from service.inference.job import Job


class Room:
    """Room for so many bytes, first come first served. Thread-safe.

    max_bytes: of all together; what is larger by itself goes alone.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held = 0
        self._lock = threading.Lock()
        self._waiting: deque[_Waiter] = deque()

    @property
    def held(self) -> int:
        """Bytes held now."""
        return self._held

    def of(self, job: Job) -> "RoomOfJob":
        """The same room, in which a job waits no longer than it is worth."""
        return RoomOfJob(self, job)

    def take(self, count: int, job: Job) -> None:
        """Waits for room for a photograph of so many bytes; DeadlineExceeded or Cancelled."""
        waiter = _Waiter(count)
        with self._lock:
            self._waiting.append(waiter)
            self._admit()
        if waiter.admitted:
            return
        job.when_cancelled(waiter.over.set)
        waiter.over.wait(job.remaining_s)
        with self._lock:
            if waiter.admitted:
                return
            self._waiting.remove(waiter)
            self._admit()  # who stood behind may be smaller
        job.check()
        raise DeadlineExceeded("there was no room for the photograph's pixels in time")

    def give(self, count: int) -> None:
        """The pixels of a photograph of so many bytes are gone."""
        with self._lock:
            self._held -= count
            self._admit()

    def _admit(self) -> None:
        while self._waiting and self._fits(self._waiting[0].count):
            waiter = self._waiting.popleft()
            self._held += waiter.count
            waiter.admitted = True
            waiter.over.set()

    def _fits(self, count: int) -> bool:
        return self._held == 0 or self._held + count <= self._max_bytes


class RoomOfJob:
    """What a photograph of one request asks for room; see `heads.photo.Room`."""

    def __init__(self, room: Room, job: Job) -> None:
        self._room = room
        self._job = job

    def take(self, count: int) -> None:
        """Waits for room; DeadlineExceeded or Cancelled."""
        self._room.take(count, self._job)

    def give(self, count: int) -> None:
        """Gives room back."""
        self._room.give(count)


class _Waiter:
    def __init__(self, count: int) -> None:
        self.count = count
        self.admitted = False
        self.over = threading.Event()
