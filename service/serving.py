"""What an application serves with: the engine, the places for requests, and the state it is in."""

import asyncio
import contextlib
import gc
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from starlette.requests import Request

from service.body import Body, read_body, read_raw
from service.dispatch import Dispatcher, Place
from service.entry import Entry
from service.errors import Overloaded, RateExceeded, Unavailable
from service.fetch import Fetcher
from service.inference.answers import (
    ClassifyAnswer,
    DetectAnswer,
    PoseAnswer,
    PoseOptions,
    SegmentAnswer,
)
from service.inference.job import Job
from service.inference.networks import LOADING
from service.keys import Key, KeyFileError, KeyRing, plain_keys, read_keys
from service.rates import RateLimiter, client_of_address
from service.record import record_of
from service.settings import Settings, words_of
from service.siblings import Order

if TYPE_CHECKING:
    from service.inference.batcher import BatchCounters
    from service.inference.catalogue import ModelInfo
    from service.inference.networks import Change

log = logging.getLogger("hrpose")

T = TypeVar("T")

RATE_HEADERS = "hrpose.rate_headers"
"""Where a request keeps what its answer says of the client's rate."""

LOADING_RETRY_S = 5.0

CHANGES_AT_ONCE = 8
"""Requests that load or unload networks; others find threads for what they ask."""

TICK_S = 0.02
"""So often it is looked whether connections may come."""

LOADING_GRACE_S = 5.0
"""How long the end of the server waits for networks that are still being loaded."""


class PoseEngine(Protocol):
    """The part of `service.inference.engine.Engine` that HTTP asks; its methods block."""

    @property
    def default(self) -> str:
        """The network that `default` means."""

    @property
    def detector(self) -> str:
        """The network that finds boxes."""

    @property
    def runtime(self) -> str:
        """What runs networks, and with which precision."""

    @property
    def width(self) -> int:
        """So many requests worked on at once keep it busy."""

    @property
    def ready(self) -> bool:
        """Loaded, warm, and queues below their bound."""

    def start(self) -> None:
        """Loads and warms the default network and the detector."""

    def close(self) -> None:
        """Ends all work."""

    def models(self) -> list["ModelInfo"]:
        """All known networks."""

    def model(self, name: str) -> "ModelInfo":
        """One network; UnknownName if there is none."""

    def load(self, model: str, force: bool = False) -> "Change":
        """Loads a network, or swaps it where its file has changed."""

    def unload(self, model: str) -> "Change":
        """Ends a network when its requests are answered."""

    def pose(self, data: bytes, model: str, options: PoseOptions, job: Job) -> PoseAnswer:
        """Everybody in an image file."""

    def detect(
        self, data: bytes, model: str | None, threshold: float | None, max_people: int, job: Job
    ) -> DetectAnswer:
        """Where people are in an image file."""

    def classify(self, data: bytes, model: str | None, top_k: int, job: Job) -> ClassifyAnswer:
        """What an image file shows."""

    def segment(self, data: bytes, model: str | None, job: Job) -> SegmentAnswer:
        """The class of every pixel of an image file."""

    def counters(self) -> Mapping[str, "BatchCounters"]:
        """What each network's batcher has done."""


class Visit:
    """One request that was given a place."""

    def __init__(
        self, request: Request, place: Place, max_bytes: int, fetcher: Fetcher | None = None
    ) -> None:
        self.job = place.job
        self.record = record_of(request.scope)
        self._request = request
        self._place = place
        self._max_bytes = max_bytes
        self._fetcher = fetcher

    async def read(self) -> Body:
        """The request's body, within its limits of size and time."""
        fetch = None if self._fetcher is None else self._fetch
        return await self._place.wait(read_body(self._request, self._max_bytes, self._place, fetch))

    def _fetch(self, url: str) -> bytes:
        assert self._fetcher is not None
        image = self._fetcher.fetch(url, self._place.hold, self.job.remaining_s)
        self.job.check()
        return image

    async def read_raw(self) -> bytes:
        """The bytes of the request's body, of any type, within the same limits."""
        return await self._place.wait(read_raw(self._request, self._max_bytes, self._place))

    async def run(self, work: Callable[[], T]) -> T:
        """The result of blocking work, done in a thread; dropped when the client goes away."""
        asked = time.perf_counter()

        def begun() -> T:
            self.job.check()  # whose client went while it waited for a thread
            self.record.waited_s = time.perf_counter() - asked
            return work()

        return await self._place.run(begun, self._client_gone)

    async def _client_gone(self) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            pass


class Serving:
    """State of one application; made by create_app, started by its lifespan.

    entry: when it may take connections, as one of several processes; None is at once.
    """

    def __init__(self, settings: Settings, engine: PoseEngine, entry: Entry | None = None) -> None:
        self.settings = settings
        self.engine = engine
        self._entry = entry
        self.keys = KeyRing(keys_of(settings))
        self.rates = RateLimiter(settings.rate_limit)
        hosts = words_of(settings.image_urls)
        self.fetcher = Fetcher(hosts, settings.max_upload_bytes) if hosts else None
        self.draining = False
        self.failure: Exception | None = None
        self.active_requests = 0
        self._started = False
        # A thread that fetches a photograph from elsewhere keeps no core busy.
        threads = settings.max_requests if self.fetcher else engine.width
        self._changes = threading.BoundedSemaphore(CHANGES_AT_ONCE)
        self._dispatcher = Dispatcher(
            settings.max_requests, settings.timeout_s, settings.max_queue_bytes, threads
        )

    @contextlib.asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Loads in the background, so that liveness is answered meanwhile; closes at the end.

        Begins when connections may come: uvicorn takes none before.
        """
        # A daemon, so that a download that is under way does not keep a process from ending.
        loading = threading.Thread(target=self._load, name=LOADING, daemon=True)
        loading.start()
        try:
            while not self._may_begin():
                await asyncio.sleep(TICK_S)
            yield
        finally:
            self.drain()
            await asyncio.to_thread(self._close, loading)

    def _may_begin(self) -> bool:
        """Also where nothing will be served: the server is to see it and end."""
        over = self.draining or self.failure is not None
        return over or self._entry is None or self._entry.admits(ready=self._started)

    def _load(self) -> None:
        try:
            self.engine.start()
        except Exception as error:  # the top of a thread: whoever runs the server looks at it
            self.failure = error
            log.error("the networks could not be loaded: %s", error)
            return
        # What is loaded stays; to look through it for rubbish again and again takes time.
        gc.collect()
        gc.freeze()
        self._started = True
        if self._entry is not None:
            self._entry.loaded()
        log.info("ready")

    def _close(self, loading: threading.Thread) -> None:
        self._dispatcher.close()
        if self.fetcher is not None:
            self.fetcher.close()
        loading.join(LOADING_GRACE_S)
        if not loading.is_alive():
            self.engine.close()

    def drain(self) -> None:
        """New requests are refused from now on; accepted ones are finished."""
        self.draining = True

    def give_up(self) -> None:
        """Accepted requests are refused after all: the time to finish them is over."""
        self._dispatcher.give_up()

    @contextlib.contextmanager
    def visit(self, request: Request) -> Iterator[Visit]:
        """A place for the request; Overloaded where there is none, Unavailable if not serving."""
        self.check_open()
        with self._dispatcher.place() as place:
            yield Visit(request, place, self.settings.max_upload_bytes, self.fetcher)

    def check_ready(self) -> None:
        """Raises Unavailable unless a request sent now would be taken."""
        self.check_open()
        if not self.engine.ready:
            raise Unavailable("the queue is full", 1.0)

    def count(self, request: Request, key: Key | None) -> None:
        """Counts a request towards its key's rate, or its address's where there are no keys.

        What is left is told by every answer (`service.guard`). Raises RateExceeded.
        """
        client = client_of_address(request.client.host if request.client else None)
        try:
            if key is not None:
                allowance = self.rates.check(f"key:{key.digest.hex()}", key.rate)
            else:
                allowance = self.rates.check(client)
        except RateExceeded as error:
            request.scope[RATE_HEADERS] = error.headers
            raise
        if allowance is not None:
            request.scope[RATE_HEADERS] = allowance.headers

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """While a request changes networks; Overloaded where many do, who each hold a thread."""
        if not self._changes.acquire(blocking=False):
            raise Overloaded(f"{CHANGES_AT_ONCE} requests change networks already", 1.0)
        try:
            yield
        finally:
            self._changes.release()

    def change(self, order: Order) -> "Change":
        """Loads or unloads a network of this process; what was done."""
        if order.load:
            return self.engine.load(order.name, order.force)
        return self.engine.unload(order.name)

    @property
    def requests_at_work(self) -> int:
        """Requests that hold a place."""
        return self._dispatcher.taken

    @property
    def bytes_held(self) -> int:
        """Bytes of bodies that requests hold."""
        return self._dispatcher.bytes_held

    def check_open(self) -> None:
        """Raises Unavailable while loading, after a failure to load, and once told to stop."""
        if self.draining:
            raise Unavailable("the server is shutting down", LOADING_RETRY_S)
        if self.failure is not None:
            raise Unavailable("the networks could not be loaded", LOADING_RETRY_S)
        if not self._started:
            raise Unavailable("the networks are being loaded", LOADING_RETRY_S)


def keys_of(settings: Settings) -> list[Key]:
    """Those of the environment, then those of the file; KeyFileError where it cannot be used."""
    keys = plain_keys(settings.keys)
    if settings.api_keys.get_secret_value() and not keys:
        raise KeyFileError("api_keys holds no key, which would leave the server open")
    keys += read_keys(Path(settings.api_keys_file)) if settings.api_keys_file else []
    if len({key.digest for key in keys}) < len(keys):
        raise KeyFileError("a key stands twice: in api_keys, or there and in api_keys_file")
    return keys
