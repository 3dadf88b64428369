"""The networks that are being served, by name: loaded, swapped and unloaded while requests run.

Whoever runs a network holds a lease. What is swapped or unloaded gives up its name at once, so
that no new request gets it, and is closed when its last lease has ended; so no request fails.

A network is loaded by a thread of its own. Requests wait for it no longer than they may take, and
those of a server hold no thread meanwhile: others need it for networks that are there.
"""

import logging
import threading
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from heads.errors import CheckpointError
from heads.image import warp
from models.errors import HrposeError
from service.errors import BeingLoaded, Conflict, Unavailable
from service.inference.batcher import BatchCounters
from service.inference.job import Job
from service.inference.loading import compiled_folder
from service.inference.memory import return_freed, return_read
from service.inference.pipeline import PeopleNetwork, PoseNetwork
from service.inference.stamp import Stamp
from service.inference.whole import ClassifyNetwork, SegmentNetwork

log = logging.getLogger("hrpose")

Served = PeopleNetwork | PoseNetwork | ClassifyNetwork | SegmentNetwork

Change = Literal["loaded", "swapped", "unloaded", "unchanged"]

LOADING = "loading"
"""How threads are named while they load networks: the end of a process waits for none of them."""


@dataclass(eq=False)
class Live:
    """A network that is served, and how many requests use it now.

    stamp: what its file was when it was read; None for a network without a file.
    whole: False for a detector that answers nothing but boxes.
    """

    network: Served
    runtime: str
    stamp: Stamp | None = None
    whole: bool = True
    users: int = field(default=0, init=False)


@dataclass
class _Turn:
    """At a name: its network is loaded or unloaded by one at a time."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    wanted: int = 0


class Networks:
    """Networks by name, each loaded once, on first use or when told to. Thread-safe.

    make: loads a network and starts its batcher; whether it has to be whole.
    stamp: what the file of a name is now.
    most: networks at once; the one that was not asked for longest makes room for another.
    kept: names of those that never do.
    """

    def __init__(
        self,
        make: Callable[[str, bool], Live],
        stamp: Callable[[str], Stamp | None] = lambda _: None,
        *,
        most: int = 16,
        kept: Collection[str] = (),
    ) -> None:
        self._make = make
        self._stamp = stamp
        self._most = most
        self._kept = kept
        self._changed = threading.Condition()
        # The one that was asked for last stands last.
        self._live: dict[str, Live] = {}
        self._leaving: dict[Live, str] = {}
        self._turns: dict[str, _Turn] = {}
        self._loading: dict[tuple[str, bool], Future[None]] = {}
        self._past: dict[str, BatchCounters] = {}
        self._closed = False

    @contextmanager
    def lease(self, name: str, *, whole: bool = True, job: Job | None = None) -> Iterator[Served]:
        """The network of that name, which is loaded if it is not, and stays for the block.

        whole: False where nothing but boxes will be asked for. Of what was loaded for boxes only,
        who wants the whole network gets one that takes its place.
        job: who waits while it is loaded, and how long. Raises Cancelled or DeadlineExceeded when
        that is over, BeingLoaded where it is to wait without this thread; it is loaded all the
        same.
        """
        while (live := self._enter(name, whole)) is None:
            _await(name, self._start_loading(name, whole), job or Job())
        try:
            yield live.network
        finally:
            with self._changed:
                live.users -= 1
                self._changed.notify_all()

    def load(self, name: str, force: bool = False) -> Change:
        """Loads a network, or puts another in its place where its file has changed.

        The new network is loaded and warmed beside the old one, and takes its place when it is
        ready. Returns when nobody uses the old one any more. force: also with the same file.
        Raises what loading raises, and Conflict for a network of another task; the old one stays.
        """
        with self._one_at_a_time(name), named_loading(name):
            old = self._find(name)
            if old is not None and not force and old.stamp == self._stamp(name):
                return "unchanged"
            new = self._make(name, old is None or old.whole)
            try:
                if old is not None and new.network.spec.task != old.network.spec.task:
                    raise Conflict(
                        f"{name} is a {old.network.spec.task} network; one that can "
                        f"{new.network.spec.task} cannot take its place"
                    )
                warm(name, new.network)
            except BaseException:
                new.network.batcher.close()
                raise
            for each in self._put(name, new):
                self._retire(each)
        change: Change = "loaded" if old is None else "swapped"
        log.info("%s %s, run by %s", change, name, new.runtime)
        return change

    def unload(self, name: str) -> Change:
        """Ends a network when the requests that use it are answered; the next one loads it anew."""
        with self._one_at_a_time(name):
            with self._changed:
                old = self._drop(name) if name in self._live else None
            if old is None:
                return "unchanged"
            self._retire(old)
        log.info("unloaded %s", name)
        return "unloaded"

    def all(self) -> dict[str, Live]:
        """What is served now."""
        with self._changed:
            return dict(self._live)

    def __contains__(self, name: str) -> bool:
        return self._find(name) is not None

    def counters(self) -> dict[str, BatchCounters]:
        """What has been done under each name, by the networks of before as well."""
        with self._changed:
            found = dict(self._past)
            leaving = [(name, live) for live, name in self._leaving.items()]
            for name, live in [*self._live.items(), *leaving]:
                found[name] = found.get(name, BatchCounters()) + live.network.batcher.counters()
            return found

    def close(self) -> None:
        """Ends every network; what waits is refused."""
        with self._changed:
            self._closed = True
            for name in list(self._live):
                self._drop(name)
            ending = list(self._leaving)  # where they are counted still
            self._changed.notify_all()
        for live in ending:
            live.network.batcher.close()

    def _start_loading(self, name: str, whole: bool) -> "Future[None]":
        """What ends when the network is loaded, by a thread that has begun or begins now."""
        with self._changed:
            found = self._loading.get((name, whole))
            if found is not None:
                return found
            loading = self._loading[name, whole] = Future()
        # A daemon, so that a file that is read or exported does not keep a process from ending.
        thread = threading.Thread(
            target=self._load, args=(name, whole, loading), name=f"{LOADING}-{name}", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:  # the system has no more; whoever asks next tries again
            with self._changed:
                del self._loading[name, whole]
            loading.set_exception(Unavailable(f"{name} cannot be loaded now: {error}", 1.0))
        return loading

    def _load(self, name: str, whole: bool, loading: "Future[None]") -> None:
        leaving: list[Live] = []
        fault: BaseException | None = None
        try:
            with self._one_at_a_time(name):
                old = self._find(name)
                if old is None or (whole and not old.whole):
                    leaving = self._put(name, self._make(name, whole))
        except BaseException as error:  # the top of a thread: it is raised where it is waited for
            fault = error
        with self._changed:
            del self._loading[name, whole]
        if fault is None:
            loading.set_result(None)
        else:
            loading.set_exception(fault)
        for each in leaving:
            self._retire(each)

    @contextmanager
    def _one_at_a_time(self, name: str) -> Iterator[None]:
        """Names are clients' to invent, so a turn is kept no longer than somebody wants it."""
        with self._changed:
            turn = self._turns.setdefault(name, _Turn())
            turn.wanted += 1
        try:
            with turn.lock:
                yield
        finally:
            with self._changed:
                turn.wanted -= 1
                if not turn.wanted:
                    del self._turns[name]

    def _find(self, name: str) -> Live | None:
        with self._changed:  # without it, one that is being moved to the end is not there
            return self._live.get(name)

    def _enter(self, name: str, whole: bool) -> Live | None:
        with self._changed:
            if self._closed:
                raise Unavailable("the networks are shutting down", 1.0)
            live = self._live.get(name)
            if live is None or (whole and not live.whole):
                return None
            live.users += 1
            self._live[name] = self._live.pop(name)
            return live

    def _put(self, name: str, new: Live) -> list[Live]:
        """Gives a network its name; what has lost its own by that is to be retired."""
        with self._changed:
            if not self._closed:
                leaving = [name] if name in self._live else []
                free = [other for other in self._live if other not in (name, *self._kept)]
                leaving += free[: max(0, len(self._live | {name: new}) - self._most)]
                left = [self._drop(other) for other in leaving]
                self._live[name] = new
                return left
        new.network.batcher.close()
        raise Unavailable("the networks are shutting down", 1.0)

    def _drop(self, name: str) -> Live:
        """Takes its name from a network, which counts as leaving until it is retired."""
        live = self._live.pop(name)
        self._leaving[live] = name
        return live

    def _retire(self, old: Live) -> None:
        """Waits until nobody uses a network that has lost its name, and closes it."""
        with self._changed:
            self._changed.wait_for(lambda: old.users == 0 or self._closed)
        old.network.batcher.close()
        with self._changed:
            name = self._leaving.pop(old)
            done = old.network.batcher.counters()
            self._past[name] = self._past.get(name, BatchCounters()) + done
        return_freed()


@contextmanager
def named_loading(name: str) -> Iterator[None]:
    """A thread of somebody else's that loads a network here."""
    thread = threading.current_thread()
    before, thread.name = thread.name, f"{LOADING}-{name}"
    try:
        yield
    finally:
        thread.name = before


def _await(name: str, loading: "Future[None]", job: Job) -> None:
    """Waits for a network; raises what loading it raises, or that the job is over."""
    if not job.may_block:
        raise BeingLoaded(name, loading)
    over = threading.Event()
    loading.add_done_callback(lambda _: over.set())
    job.when_cancelled(over.set)
    while not loading.done():
        over.wait(job.remaining_s)
        job.check()
    loading.result()


def warm(name: str, network: Served) -> None:
    """Runs a network once, and gives back what was only read for that.

    Raises CheckpointError for one that loads and cannot be run.
    """
    image = np.zeros((256, 256, 3), np.uint8)
    spec = network.spec
    whole = spec.task in ("people", "segment")
    crop = spec.whole((256, 256)) if whole else spec.crop((0, 0, 256, 256))
    try:
        network.batcher.run([warp(image, crop)], Job())
    except HrposeError:
        raise
    except Exception as error:  # whatever a runtime meets; the batcher has logged it
        raise CheckpointError(f"{name} can be loaded but not run; the log has more") from error
    return_read(compiled_folder())
