"""One bounded queue of crops over all requests of a network, and the threads that empty it.

Crops of different requests share a batch; a crop's answer does not depend on its neighbours. While
the device computes, crops gather, so a busy server batches by itself and an idle one does not wait.
One thread suits a device that computes one batch at a time; a runtime that computes on each core by
itself gets a thread a core, and each takes its share of what waits.
"""

import logging
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from models.errors import HrposeError
from service.errors import Overloaded, Unavailable
from service.inference.job import Job
from service.inference.runtime import Maps, Runtime, is_out_of_memory

log = logging.getLogger("hrpose.batcher")

_PAUSE_S = 0.1
"""Before a worker that died starts over: one that dies at once must not take a core."""

_RETRY_S = 1.0


@dataclass(frozen=True)
class BatchCounters:
    """What a batcher has done since its start.

    queue_depth, queue_requests: crops that wait now, and whose they are.
    restarts: how often a worker died and was started over.  sizes: batches by number of crops.
    """

    crops: int = 0
    batches: int = 0
    shared_batches: int = 0
    queue_depth: int = 0
    queue_requests: int = 0
    restarts: int = 0
    sizes: Mapping[int, int] = field(default_factory=dict)

    def __add__(self, other: "BatchCounters") -> "BatchCounters":
        return BatchCounters(
            self.crops + other.crops,
            self.batches + other.batches,
            self.shared_batches + other.shared_batches,
            self.queue_depth + other.queue_depth,
            self.queue_requests + other.queue_requests,
            self.restarts + other.restarts,
            Counter(self.sizes) + Counter(other.sizes),
        )


@dataclass(frozen=True)
class Ran:
    """The maps of one crop, [C, h, w] each, and how long it waited and computed."""

    maps: Maps
    queue_ms: float
    network_ms: float


class _Request:
    """The crops of one call of `run`, and the thread that waits for all of them."""

    def __init__(self, crops: Sequence[npt.NDArray[np.uint8]], job: Job) -> None:
        self.job = job
        self.items = [_Item(crop, self) for crop in crops]
        self._left = len(crops)
        self._error: Exception | None = None
        self._lock = threading.Lock()
        self._over = threading.Event()

    def wait(self) -> list[Ran]:
        """The maps of each crop; raises what a worker met, or what the job says."""
        self.job.when_cancelled(self._over.set)
        try:
            while True:
                if self._left:
                    self._over.wait(self.job.remaining_s)
                with self._lock:
                    if self._error is not None:
                        raise self._error
                    if not self._left:
                        return [item.ran for item in self.items if item.ran is not None]
                self.job.check()
        finally:
            self.items = []  # they know this request: else maps would wait for the next clearing up

    @property
    def failed(self) -> bool:
        """True once an error was answered: what is left of it is for nobody."""
        return self._error is not None

    def answer(self, item: "_Item", ran: Ran | Exception) -> None:
        """The end of one crop: the last one and an error end the waiting."""
        with self._lock:
            item.done = True
            self._left -= 1
            if isinstance(ran, Exception):
                self._error = self._error or ran
            else:
                item.ran = ran
            if self._left == 0 or self._error is not None:
                self._over.set()


@dataclass(eq=False)
class _Item:
    crop: npt.NDArray[np.uint8]
    request: _Request
    submitted: float = field(default_factory=time.perf_counter)
    ran: Ran | None = None
    done: bool = False

    def answer(self, ran: Ran | Exception) -> None:
        """What became of it; said once."""
        self.request.answer(self, ran)


class Batcher:
    """Runs crops of many requests through one network. Thread-safe.

    device: held while the network runs, so that networks on one device take turns; a semaphore
        where the device does several computations at once.
    workers: batches of this network at once.
    max_batch: crops at once.  max_wait_ms: how long a crop waits for company when nothing runs.
    max_queue: crops that may wait; a request that does not fit is refused at once.
    """

    def __init__(
        self,
        name: str,
        runtime: Runtime,
        *,
        device: AbstractContextManager[bool],
        workers: int = 1,
        max_batch: int = 8,
        max_wait_ms: float = 0.0,
        max_queue: int = 256,
    ) -> None:
        self.name = name
        self._runtime = runtime
        self._device = device
        self._max_batch = max_batch
        self._max_wait_s = max_wait_ms / 1000
        self._max_queue = max_queue
        self._queue: deque[_Item] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._crops = self._shared = self._restarts = 0
        self._sizes: Counter[int] = Counter()
        self._seconds_a_crop = 0.05  # corrected by every batch
        self._workers = [
            threading.Thread(target=self._work, name=f"batcher-{name}-{i}", daemon=True)
            for i in range(workers)
        ]
        try:
            for worker in self._workers:
                worker.start()
        except RuntimeError as error:  # the system has no more
            self._workers = [worker for worker in self._workers if worker.ident is not None]
            self.close()
            raise Unavailable(f"{name} cannot be run now: {error}", _RETRY_S) from error

    def run(self, crops: Sequence[npt.NDArray[np.uint8]], job: Job) -> list[Ran]:
        """Waits for the maps of each crop, RGB uint8 [H, W, 3], in order.

        Raises Overloaded at once where the queue has no room for all of them (more than it can ever
        hold go into an empty one), DeadlineExceeded or Cancelled as soon as the job is not worth
        doing.
        """
        request = _Request(crops, job)
        self._put(request.items)
        return request.wait()

    def counters(self) -> BatchCounters:
        """What has been done so far."""
        with self._changed:
            return BatchCounters(
                self._crops,
                self._sizes.total(),
                self._shared,
                len(self._queue),
                len({id(item.request) for item in self._queue}),
                self._restarts,
                dict(self._sizes),
            )

    @property
    def has_room(self) -> bool:
        """False while the queue is full."""
        with self._changed:
            return len(self._queue) < self._max_queue

    def close(self) -> None:
        """Ends the threads after the batches in hand; what waits is refused."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for worker in self._workers:
            worker.join()

    def _put(self, items: list[_Item]) -> None:
        with self._changed:
            if self._closed:
                raise Unavailable(f"{self.name} is shutting down", 1.0)
            if len(self._queue) + len(items) > self._max_queue:
                self._queue = deque(item for item in self._queue if _alive(item))
            if self._queue and len(self._queue) + len(items) > self._max_queue:
                raise Overloaded(
                    f"the queue of {self.name} holds {len(self._queue)} of {self._max_queue} "
                    f"crops; no room for {len(items)} more",
                    max(1.0, len(self._queue) * self._seconds_a_crop / len(self._workers)),
                )
            self._queue.extend(items)
            # A worker a crop; all of them where the one that is told may be waiting for company.
            self._changed.notify(len(self._workers) if self._max_wait_s else len(items))

    def _work(self) -> None:
        """The whole life of a thread: what no batch may raise starts it over."""
        while True:
            try:
                self._serve()
                break
            except BaseException:  # the top of a thread, which must not be missing afterwards
                with self._changed:
                    self._restarts += 1
                log.critical("a worker of %s died and starts over", self.name, exc_info=True)
                time.sleep(_PAUSE_S)
        with self._changed:
            for item in self._queue:
                item.answer(Unavailable(f"{self.name} is shutting down", 1.0))
            self._queue.clear()

    def _serve(self) -> None:
        """Runs batches until the end; a batch in hand is answered even if this dies."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closed)
                if self._closed:
                    return
                if self._max_wait_s:
                    due = self._queue[0].submitted + self._max_wait_s - time.perf_counter()
                    self._changed.wait_for(
                        lambda: len(self._queue) >= self._max_batch or self._closed, max(0.0, due)
                    )
            self._serve_batch()

    def _serve_batch(self) -> None:
        """Apart, so that no crop or map outlives its batch while the worker waits for another."""
        batch: list[_Item] = []
        try:
            with self._device:  # crops that come while another network runs join this batch
                batch = self._take()
                if batch:
                    self._run(batch)
        finally:
            for item in batch:
                if not item.done:
                    item.answer(self._unavailable("lost the batch it ran"))

    def _take(self) -> list[_Item]:
        """The oldest crop and more of its shape, up to one worker's share of what waits.

        No more than max_batch; drops what nobody waits for.
        """
        with self._changed:
            most = min(self._max_batch, math.ceil(len(self._queue) / len(self._workers)))
            batch: list[_Item] = []
            rest: deque[_Item] = deque()
            for item in self._queue:
                if not _alive(item):
                    continue
                fits = not batch or item.crop.shape == batch[0].crop.shape
                (batch if fits and len(batch) < most else rest).append(item)
            self._queue = rest
            return batch

    def _run(self, batch: list[_Item]) -> None:
        """Answers every crop: what fails together is tried in smaller parts, at last one by one."""
        error = self._try(batch)
        if error is None:
            return
        if len(batch) == 1:
            self._fail(batch[0], error)
            return
        most = math.ceil(len(batch) / 2) if is_out_of_memory(error) else 1
        log.warning(
            "%s failed on a batch of %d, which is tried again %d at a time: %s",
            self.name, len(batch), most, error,
        )  # fmt: skip
        del error  # its traceback holds what the failed batch had taken of the device's memory
        for start in range(0, len(batch), most):
            part = [item for item in batch[start : start + most] if _alive(item)]
            if part:
                self._run(part)

    def _try(self, batch: list[_Item]) -> Exception | None:
        """Runs a batch and answers its crops, or returns what kept it from that."""
        start = time.perf_counter()
        try:
            maps = self._runtime.run(np.stack([item.crop for item in batch]))
        except Exception as error:  # the top of a worker: the requests get it, the thread lives on
            return error
        seconds = time.perf_counter() - start
        with self._changed:
            self._crops += len(batch)
            self._sizes[len(batch)] += 1
            self._shared += len({id(item.request) for item in batch}) > 1
            self._seconds_a_crop += 0.1 * (seconds / len(batch) - self._seconds_a_crop)
        for i, item in enumerate(batch):
            own = {name: values[i] for name, values in maps.items()}
            item.answer(Ran(own, (start - item.submitted) * 1000, seconds * 1000))
        return None

    def _fail(self, item: _Item, error: Exception) -> None:
        log.error("%s failed on a crop", self.name, exc_info=error)
        if is_out_of_memory(error):
            error = self._unavailable("has no memory for a single crop")
        item.answer(error)

    def _unavailable(self, reason: str) -> Unavailable:
        return Unavailable(f"{self.name} {reason}; try again", _RETRY_S)


def _alive(item: _Item) -> bool:
    """False once nobody waits for the item; its request is then told why."""
    if item.request.failed:
        return False
    try:
        item.request.job.check()
    except HrposeError as error:
        item.answer(error)
        return False
    return True
