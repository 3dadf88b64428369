"""What is known of one request when it has been answered: for its log line, metrics and spans.

The guard makes it and reads it, both on the event loop; what lies between fills it. Nothing waits
for a lock.
"""

import re
import time
import uuid
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from starlette.types import Scope

T = TypeVar("T")

HEADER = "X-Request-ID"

_SANE = re.compile(r"[A-Za-z0-9._-]{1,64}")

_KEY = "hrpose.record"

_current: ContextVar["Record | None"] = ContextVar("hrpose_record", default=None)


class Timed(Protocol):
    """An answer that says how long its phases took."""

    @property
    def timing_ms(self) -> Mapping[str, float]:
        """Milliseconds by phase."""


@dataclass
class Record:
    """One request.

    phases: seconds by phase, of those that took any.  people: how many were answered, where the
    question was for people.  problem: the type of the problem that was answered.
    waited_s: for a thread to begin with it; a part of the phase `queue`.
    """

    request_id: str
    phases: dict[str, float] = field(default_factory=dict)
    people: int | None = None
    problem: str | None = None
    waited_s: float = 0.0

    def written(self, answer: Timed, write: Callable[[], T], people: int | None) -> T:
        """An answer as `write` makes it; takes note of its phases, and of how long writing took."""
        start = time.perf_counter()
        data = write()
        # Made apart and set at once: the request may be over for the guard already.
        phases = {
            name: ms / 1000 for name, ms in answer.timing_ms.items() if ms and name != "total"
        }
        phases["queue"] = phases.get("queue", 0.0) + self.waited_s
        self.phases = phases | {"write": time.perf_counter() - start}
        self.people = people
        return data


def begin(scope: Scope) -> Record:
    """The record of a request that has just come; its client may have named it."""
    named = next((v for k, v in scope["headers"] if k == b"x-request-id"), b"").decode("latin-1")
    record = Record(named if _SANE.fullmatch(named) else uuid.uuid4().hex)
    scope[_KEY] = record
    _current.set(record)
    return record


def record_of(scope: Scope) -> Record:
    """The record of a request; a new one where no guard has made it."""
    found = scope.get(_KEY)
    return found if isinstance(found, Record) else begin(scope)


def current_id() -> str | None:
    """The name of the request that this thread or task works for, if it does."""
    record = _current.get()
    return None if record is None else record.request_id
