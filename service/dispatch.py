"""Places for requests at work, and the threads that do the work off the event loop.

A request takes a place before its body is read and gives it back when its work has ended, so the
number of bodies, images and busy threads is bounded; where no place is free it is refused at once.
What bodies weigh together is bounded too; a refusal says when the work ahead should have ended.
"""

import asyncio
import contextlib
import contextvars
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from service.errors import BeingLoaded, Cancelled, DeadlineExceeded, Overloaded, Unavailable
from service.inference.job import Job
from service.load import ByteBudget, DrainRate

T = TypeVar("T")

RETRY_S = 1.0
"""After a server has ended, another takes its place."""


class Place:
    """One request at work: its job, and what it runs. Belongs to the event loop."""

    def __init__(
        self, job: Job, pool: ThreadPoolExecutor, budget: ByteBudget, rate: DrainRate
    ) -> None:
        self.job = job
        self.held = 0
        self._pool = pool
        self._budget = budget
        self._rate = rate
        self._running: asyncio.Future[Any] | None = None
        self._task: asyncio.Task[Any] | None = None
        self._given_up = False
        self._awaited: asyncio.Future[Any] | None = None

    @contextlib.contextmanager
    def asking(self) -> Iterator[None]:
        """While the request's task asks for its answer; Unavailable where it is given up."""
        self._task = asyncio.current_task()
        try:
            yield
        except asyncio.CancelledError:
            if not self._given_up or self._task is None:
                raise
            self._task.uncancel()
            raise Unavailable("the server is shutting down", RETRY_S) from None
        finally:
            self._task = None

    def give_up(self) -> None:
        """Ends the request, wherever it is; one whose answer is there keeps it."""
        has_answer = self._awaited is self._running and _is_answered(self._running)
        if self._task is not None and not has_answer:
            self._given_up = True
            self._task.cancel()

    def hold(self, count: int) -> None:
        """Counts bytes that the request holds until its work has ended; Overloaded if too many.

        By the event loop while the body is read, by the request's thread afterwards.
        """
        if not self._budget.take(count):
            raise self._no_room()
        self.held += count

    def check_room(self, count: int) -> None:
        """Overloaded where so many bytes, which are promised only, would not fit now."""
        if not self._budget.has_room_for(count):
            raise self._no_room()

    def _no_room(self) -> Overloaded:
        return self._budget.refusal(self._rate.retry_after_s(self.job.timeout_s or 0.0))

    async def wait(self, reading: Awaitable[T]) -> T:
        """Awaits something on the event loop; DeadlineExceeded when the time is over."""
        try:
            async with asyncio.timeout(self.job.remaining_s):
                return await reading
        except TimeoutError:
            raise self._too_late() from None

    async def run(self, work: Callable[[], T], client_gone: Callable[[], Awaitable[None]]) -> T:
        """Runs blocking work in a thread; once more, where it met a network that was not there yet.

        client_gone returns when nobody waits for the answer any more. Raises what the work raises,
        Cancelled when the client goes, DeadlineExceeded when the time is over; the job then says
        so to the work.
        """
        watching = asyncio.ensure_future(client_gone())
        try:
            while True:
                # With the context of the request: what the thread logs carries its id.
                context = contextvars.copy_context()
                submitted = self._submit(context, work)
                self._running = running = asyncio.wrap_future(submitted)
                running.add_done_callback(_retrieve)
                try:
                    return await self._first(running, watching)
                except BeingLoaded as met:
                    # Shielded: others wait for it as well.
                    loading = asyncio.shield(asyncio.wrap_future(met.loading))
                    loading.add_done_callback(_retrieve)
                    await self._first(loading, watching)
                finally:
                    submitted.cancel()  # where no thread has begun with it
        finally:
            watching.cancel()

    def _submit(self, context: contextvars.Context, work: Callable[[], T]) -> "Future[T]":
        try:
            return self._pool.submit(context.run, work)
        except RuntimeError as error:  # the system has no more threads, or the pool is closed
            self.job.cancel()  # it may stand in the pool's queue all the same
            raise Unavailable(f"no thread can work on it: {error}", RETRY_S) from error

    async def _first(self, wanted: "asyncio.Future[T]", watching: "asyncio.Future[None]") -> T:
        """The result that is wanted, unless the client goes first or the time is over."""
        both: set[asyncio.Future[Any]] = {wanted, watching}
        self._awaited = wanted
        try:
            await asyncio.wait(
                both, timeout=self.job.remaining_s, return_when=asyncio.FIRST_COMPLETED
            )
            if wanted.done():
                return wanted.result()
            if watching.done():
                raise Cancelled("the client went away")
            raise self._too_late()
        finally:
            if not wanted.done():
                self.job.cancel()

    def _too_late(self) -> DeadlineExceeded:
        return DeadlineExceeded(f"not answered within {self.job.timeout_s:g} s")

    def when_ended(self, call: Callable[[], None]) -> None:
        """Calls when no thread works for this request any more: now, or as soon as it ends."""
        if self._running is None or self._running.done():
            call()
        else:
            self._running.add_done_callback(lambda _: call())


class Dispatcher:
    """Hands out places. Belongs to the event loop.

    max_requests: places.  timeout_s: how long one request may take, body included.
    max_bytes: of bodies, held by all requests together.
    threads: requests worked on at once; others wait as the bodies they are, and hold no thread.
    """

    def __init__(self, max_requests: int, timeout_s: float, max_bytes: int, threads: int) -> None:
        self._max_requests = max_requests
        self._timeout_s = timeout_s
        self._pool = ThreadPoolExecutor(min(max_requests, threads), thread_name_prefix="request")
        self._places: set[Place] = set()
        self._budget = ByteBudget(max_bytes)
        self._rate = DrainRate()

    @property
    def taken(self) -> int:
        """Places in use."""
        return len(self._places)

    @property
    def bytes_held(self) -> int:
        """Bytes of bodies that requests hold."""
        return self._budget.held

    @contextlib.contextmanager
    def place(self) -> Iterator[Place]:
        """A place for one request; raises Overloaded at once where none is free."""
        if len(self._places) >= self._max_requests:
            raise Overloaded(
                f"{self._max_requests} requests are worked on; no more are taken now",
                self._rate.retry_after_s(self._timeout_s),
            )
        job = Job(self._timeout_s, may_block=False)
        place = Place(job, self._pool, self._budget, self._rate)
        self._places.add(place)
        self._rate.begin()
        try:
            with place.asking():
                yield place
        finally:
            place.when_ended(lambda: self._end(place))

    def _end(self, place: Place) -> None:
        self._places.discard(place)
        self._budget.give(place.held)
        self._rate.end()

    def give_up(self) -> None:
        """Ends all requests, which are told so: there is no more time for them."""
        for place in self._places:
            place.give_up()

    def close(self) -> None:
        """Drops the work that is left, and waits for the threads. Blocks."""
        for place in list(self._places):
            place.job.cancel()
        self._pool.shutdown(cancel_futures=True)


def _is_answered(running: "asyncio.Future[Any] | None") -> bool:
    """Whether work has ended, and not only to be done again when its network is there."""
    if running is None or not running.done() or running.cancelled():
        return False
    return not isinstance(running.exception(), BeingLoaded)


def _retrieve(future: "asyncio.Future[T]") -> None:
    """Takes note of an error that nobody waits for, so that asyncio does not complain of it."""
    if not future.cancelled():
        future.exception()
