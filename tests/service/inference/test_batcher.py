"""The queue: shared batches, no mixed answers, nothing run that nobody waits for."""

import gc
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from service.errors import Cancelled, DeadlineExceeded, Overloaded, Unavailable
from service.inference.batcher import Batcher
from service.inference.job import Job
from service.inference.runtime import Batch, Maps
from tests.service.conftest import wait_until


class Counting:
    """A runtime whose answer is each crop's mean; it can be held up, and remembers its batches."""

    streams = 1
    words = "counting"

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.go = threading.Event()
        self.go.set()
        self.started = threading.Event()
        self.failing = False
        self.poison: int | None = None
        self.fits = 1000
        self.dying = 0
        self.out_of_memory: Exception = MemoryError("no room")

    def run(self, batch: Batch) -> Maps:
        self.started.set()
        assert self.go.wait(10)
        self.batches.append(len(batch))
        if self.failing:
            raise RuntimeError("it fails")
        if self.dying:
            self.dying -= 1
            raise SystemExit("killed")
        if len(batch) > self.fits:
            raise self.out_of_memory
        if self.poison in batch[:, 0, 0, 0]:
            raise ValueError("poison")
        return {"mean": batch.reshape(len(batch), -1).mean(axis=1).astype(np.float32)}


def test_where_not_all_threads_can_be_had_none_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start
    started: list[threading.Thread] = []

    def two(thread: threading.Thread) -> None:
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", two)
    with pytest.raises(Unavailable, match="x cannot be run now"):
        Batcher("x", Counting(), device=threading.Semaphore(4), workers=4)
    assert len(started) == 2
    assert not any(thread.is_alive() for thread in started)


@contextmanager
def running(**options: Any) -> Iterator[tuple[Batcher, Counting]]:
    runtime = Counting()
    batcher = Batcher("test", runtime, device=threading.Lock(), **options)
    try:
        yield batcher, runtime
    finally:
        runtime.go.set()
        batcher.close()


def crop(value: int, size: tuple[int, int] = (4, 4)) -> Any:
    return np.full((*size, 3), value, np.uint8)


def queued(batcher: Batcher, runtime: Counting, pool: ThreadPoolExecutor, values: list[int]) -> Any:
    """One request a value, all waiting together behind another; the futures of their answers."""
    runtime.go.clear()
    runtime.started.clear()
    pool.submit(batcher.run, [crop(255)], Job())
    assert runtime.started.wait(5)
    found = [pool.submit(batcher.run, [crop(v)], Job()) for v in values]
    wait_until(lambda: batcher.counters().queue_depth == len(values))
    return found


def test_each_crop_gets_its_own_answer() -> None:
    with running(max_batch=4) as (batcher, _):
        ran = batcher.run([crop(v) for v in range(10)], Job())
        assert [float(r.maps["mean"]) for r in ran] == list(range(10))


def test_crops_of_many_requests_share_batches_and_are_not_mixed() -> None:
    with running(max_batch=8) as (batcher, runtime), ThreadPoolExecutor(32) as pool:
        runtime.go.clear()
        waiting = [pool.submit(batcher.run, [crop(v), crop(v + 100)], Job()) for v in range(32)]
        wait_until(lambda: batcher.counters().queue_depth >= 56)
        runtime.go.set()
        for v, future in enumerate(waiting):
            assert [float(r.maps["mean"]) for r in future.result(10)] == [v, v + 100]
        counters = batcher.counters()
        assert counters.crops == 64
        assert counters.batches <= 16
        assert counters.shared_batches >= 5
        assert max(runtime.batches) <= 8


def test_nothing_of_a_request_is_kept_until_rubbish_is_collected() -> None:
    """Maps of a detector are megabytes; a hundred requests' would be hundreds of them."""
    with running() as (batcher, _):
        mine = crop(1)
        kept = weakref.ref(mine)
        gc.disable()
        try:
            batcher.run([mine], Job())
            del mine
            wait_until(lambda: kept() is None)  # the worker is about to let go of it
        finally:
            gc.enable()


def test_only_crops_of_one_shape_share_a_batch() -> None:
    with running(max_batch=8) as (batcher, runtime):
        mixed = [crop(1), crop(2, (8, 4)), crop(3), crop(4, (8, 4))]
        ran = batcher.run(mixed, Job())
        assert [float(r.maps["mean"]) for r in ran] == [1, 2, 3, 4]
        assert sum(runtime.batches) == 4


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back() -> None:
    with running(max_queue=4) as (batcher, runtime), ThreadPoolExecutor(4) as pool:
        runtime.go.clear()
        first = pool.submit(batcher.run, [crop(0)], Job())
        assert runtime.started.wait(5)
        second = pool.submit(batcher.run, [crop(1)] * 4, Job())
        wait_until(lambda: batcher.counters().queue_depth == 4)
        assert not batcher.has_room
        start = time.monotonic()
        with pytest.raises(Overloaded, match="holds 4 of 4 crops; no room for 1 more") as caught:
            batcher.run([crop(2)], Job())
        assert time.monotonic() - start < 1
        assert caught.value.retry_after_s == 1  # four crops would be done sooner
        runtime.go.set()
        assert len(first.result(5)) == 1
        assert len(second.result(5)) == 4


@pytest.mark.parametrize("workers", [1, 2])
def test_a_refusal_says_when_what_waits_will_be_done_at_the_speed_of_the_latest(
    monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """Every crop takes 3 s by this clock; a first guess of 0.05 s is corrected by a tenth of it."""
    now = [100.0]
    monkeypatch.setattr("service.inference.batcher.time.perf_counter", lambda: now[0])
    with running(max_queue=8, workers=workers) as (batcher, runtime), ThreadPoolExecutor(4) as pool:
        run = runtime.run

        def slowly(batch: Batch) -> Maps:
            now[0] += 3.0 * len(batch)
            return run(batch)

        monkeypatch.setattr(runtime, "run", slowly)
        seconds = 0.05
        for _ in range(5):
            batcher.run([crop(0)], Job())
            seconds += 0.1 * (3.0 - seconds)
        queued(batcher, runtime, pool, [1, 2, 3])
        with pytest.raises(Overloaded) as caught:
            batcher.run([crop(3)] * 8, Job())
        assert caught.value.retry_after_s == pytest.approx(3 * seconds / workers)
        runtime.go.set()


def test_more_than_the_queue_ever_holds_goes_alone() -> None:
    """Refused by an idle server it could be tried for ever."""
    with running(max_queue=4) as (batcher, _):
        ran = batcher.run([crop(v) for v in range(6)], Job())
        assert [float(r.maps["mean"]) for r in ran] == list(range(6))


def test_a_cancelled_request_frees_its_places_and_is_not_run() -> None:
    with running(max_queue=2) as (batcher, runtime), ThreadPoolExecutor(4) as pool:
        runtime.go.clear()
        first = pool.submit(batcher.run, [crop(0)], Job())
        assert runtime.started.wait(5)
        leaving = Job()
        left = pool.submit(batcher.run, [crop(1)] * 2, leaving)
        wait_until(lambda: batcher.counters().queue_depth == 2)
        leaving.cancel()
        with pytest.raises(Cancelled):
            left.result(5)
        third = pool.submit(batcher.run, [crop(2)] * 2, Job())
        time.sleep(0.1)
        runtime.go.set()
        first.result(5)
        assert [float(r.maps["mean"]) for r in third.result(5)] == [2, 2]
        assert batcher.counters().crops == 3


def test_what_is_late_is_dropped() -> None:
    with running() as (batcher, runtime), ThreadPoolExecutor(4) as pool:
        runtime.go.clear()
        first = pool.submit(batcher.run, [crop(0)], Job())
        assert runtime.started.wait(5)
        with pytest.raises(DeadlineExceeded, match=r"within 0\.05 s"):
            batcher.run([crop(1)], Job(timeout_s=0.05))
        runtime.go.set()
        first.result(5)
        batcher.run([crop(2)], Job())
        assert batcher.counters().crops == 2


def test_a_failing_network_fails_its_requests_and_lives_on() -> None:
    with running() as (batcher, runtime):
        runtime.failing = True
        with pytest.raises(RuntimeError, match="it fails"):
            batcher.run([crop(1), crop(2)], Job())
        runtime.failing = False
        assert float(batcher.run([crop(5)], Job())[0].maps["mean"]) == 5


def test_closing_refuses_what_waits() -> None:
    with running() as (batcher, runtime), ThreadPoolExecutor(4) as pool:
        runtime.go.clear()
        first = pool.submit(batcher.run, [crop(0)], Job())
        assert runtime.started.wait(5)
        second = pool.submit(batcher.run, [crop(1)], Job())
        wait_until(lambda: batcher.counters().queue_depth == 1)
        closing = pool.submit(batcher.close)
        time.sleep(0.05)
        runtime.go.set()
        closing.result(5)
        assert len(first.result(5)) == 1
        with pytest.raises(Overloaded, match="shutting down"):
            second.result(5)
        with pytest.raises(Overloaded, match="shutting down"):
            batcher.run([crop(2)], Job())


def test_waiting_for_company_fills_a_batch() -> None:
    with (
        running(max_batch=2, max_wait_ms=2000) as (batcher, runtime),
        ThreadPoolExecutor(2) as pool,
    ):
        start = time.monotonic()
        both = [pool.submit(batcher.run, [crop(v)], Job()) for v in (1, 2)]
        for future in both:
            future.result(5)
        assert runtime.batches == [2]
        assert time.monotonic() - start < 1.5


def test_a_crop_that_fails_fails_its_own_request_only() -> None:
    with running(max_batch=8) as (batcher, runtime), ThreadPoolExecutor(8) as pool:
        runtime.poison = 3
        found = queued(batcher, runtime, pool, [1, 2, 3, 4])
        assert batcher.counters().queue_requests == 4
        runtime.go.set()
        for v, future in zip((1, 2, 3, 4), found, strict=True):
            if v == 3:
                with pytest.raises(ValueError, match="poison"):
                    future.result(5)
            else:
                assert float(future.result(5)[0].maps["mean"]) == v
        assert sorted(runtime.batches) == [1, 1, 1, 1, 1, 4]


def test_what_is_left_of_a_request_that_failed_is_not_run() -> None:
    with running(max_batch=1) as (batcher, runtime):
        runtime.poison = 3
        with pytest.raises(ValueError, match="poison"):
            batcher.run([crop(v) for v in (1, 3, 5, 7)], Job())
        batcher.run([crop(9)], Job())
        assert batcher.counters().queue_depth == 0
        assert runtime.batches == [1, 1, 1]


@pytest.mark.parametrize("kind", ["python", "torch"])
def test_a_batch_without_memory_is_run_in_halves(kind: str) -> None:
    with running(max_batch=8) as (batcher, runtime), ThreadPoolExecutor(8) as pool:
        if kind == "torch":
            torch = pytest.importorskip("torch")
            runtime.out_of_memory = torch.OutOfMemoryError("CUDA out of memory")
        runtime.fits = 2
        found = queued(batcher, runtime, pool, list(range(7)))
        runtime.go.set()
        assert [float(f.result(5)[0].maps["mean"]) for f in found] == list(range(7))
        assert runtime.batches == [1, 7, 4, 2, 2, 3, 2, 1]
        assert batcher.counters().sizes == {1: 2, 2: 3}


def test_a_crop_without_memory_is_unavailable() -> None:
    with running() as (batcher, runtime):
        runtime.fits = 0
        with pytest.raises(Unavailable, match="no memory for a single crop"):
            batcher.run([crop(1)], Job())
        runtime.fits = 1
        assert float(batcher.run([crop(5)], Job())[0].maps["mean"]) == 5


def test_a_worker_that_dies_starts_over_and_only_its_batch_is_refused() -> None:
    with running(max_batch=2) as (batcher, runtime), ThreadPoolExecutor(8) as pool:
        found = queued(batcher, runtime, pool, [1, 2, 3, 4])
        threads = threading.active_count()
        runtime.dying = 1
        runtime.go.set()  # the crop in front of the others is what dies
        assert [float(f.result(5)[0].maps["mean"]) for f in found] == [1, 2, 3, 4]
        runtime.dying = 1
        with pytest.raises(Unavailable, match="lost the batch it ran"):
            batcher.run([crop(1)], Job())
        assert float(batcher.run([crop(5)], Job())[0].maps["mean"]) == 5
        assert batcher.counters().restarts == 2
        assert threading.active_count() == threads
