"""What the server counts, for Prometheus: requests, their phases, people, batches, the process."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate, pairwise

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from models.errors import HrposeError
from service.inference.batcher import BatchCounters
from service.record import Record
from service.serving import Serving

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

PHASE_SECONDS = (0.0005, 0.001, 0.0025, *SECONDS)

PEOPLE = (0, 1, 2, 3, 5, 10, 20, 50, 100)

BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """The counters of one application, in a registry of its own. Belongs to the event loop."""

    def __init__(self, serving: Serving) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "hrpose_requests", "Requests answered.", ("route", "status"), registry=registry
        )
        self._refusals = Counter(
            "hrpose_refusals",
            "Requests answered by a problem, by the last part of its type.",
            ("route", "reason", "status"),
            registry=registry,
        )
        self._seconds = Histogram(
            "hrpose_request_seconds",
            "Time from the end of a request's head to the last byte of its answer being handed on.",
            ("route",),
            buckets=SECONDS,
            registry=registry,
        )
        self._phases = Histogram(
            "hrpose_phase_seconds",
            "Time of each phase of a request that was answered; total is all of it.",
            ("route", "phase"),
            buckets=PHASE_SECONDS,
            registry=registry,
        )
        self._people = Histogram(
            "hrpose_people", "People in an answer.", ("route",), buckets=PEOPLE, registry=registry
        )
        # Found once: to look a phase up among the labels costs more than to observe it.
        self._phase_of: dict[tuple[str, str], Histogram] = {}
        registry.register(_EngineCollector(serving))
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)

    def count(self, route: str, status: int, seconds: float, record: Record) -> None:
        """Takes note of an answered request."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)
        if record.problem is not None:
            reason = record.problem.rpartition("/")[2]
            self._refusals.labels(route, reason, str(status)).inc()
            return
        if record.phases:
            for phase, phase_s in (*record.phases.items(), ("total", seconds)):
                if (route, phase) not in self._phase_of:
                    self._phase_of[route, phase] = self._phases.labels(route, phase)
                self._phase_of[route, phase].observe(phase_s)
        if record.people is not None:
            self._people.labels(route).observe(record.people)

    def text(self) -> bytes:
        """Everything in Prometheus's text format. Blocks: it reads what is known of networks."""
        return generate_latest(self._registry)


class _EngineCollector(Collector):
    """Asks the engine when it is read, so that nothing is counted twice."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving

    def describe(self) -> Iterator[Metric]:
        """Nothing beforehand: the engine may not have started."""
        yield from ()

    def collect(self) -> Iterator[Metric]:
        """What the batchers have done, which networks are loaded, and who is at work."""
        counters = self._serving.engine.counters()
        yield from _counted(counters)
        yield _batch_sizes(counters)
        yield self._models(counters)
        yield GaugeMetricFamily(
            "hrpose_requests_at_work",
            "Requests that hold a place.",
            value=self._serving.requests_at_work,
        )
        yield GaugeMetricFamily(
            "hrpose_body_bytes", "Bytes of bodies held.", value=self._serving.bytes_held
        )

    def _models(self, names: Iterable[str]) -> Metric:
        """names: of networks that are, or were, loaded; no file of another one is looked at."""
        loaded = InfoMetricFamily("hrpose_model", "Networks that are loaded.", labels=("model",))
        for name in names:
            with contextlib.suppress(HrposeError):  # one that was, and whose file is gone
                info = self._serving.engine.model(name)
                if info.state == "loaded":
                    about = {
                        "task": info.task,
                        "runtime": info.runtime or "",
                        "licence": info.licence,
                        "default": str(info.is_default).lower(),
                    }
                    loaded.add_metric((info.name,), about)
        return loaded


def _counted(counters: Mapping[str, BatchCounters]) -> Iterator[Metric]:
    for name, help_text, field in (
        ("hrpose_crops", "Person crops run.", "crops"),
        ("hrpose_batches", "Batches run.", "batches"),
        ("hrpose_shared_batches", "Batches with crops of several requests.", "shared_batches"),
        ("hrpose_worker_restarts", "Workers that died and were started over.", "restarts"),
    ):
        family = CounterMetricFamily(name, help_text, labels=("model",))
        for model, done in counters.items():
            family.add_metric((model,), getattr(done, field))
        yield family
    for name, help_text, field in (
        ("hrpose_queue_crops", "Person crops waiting.", "queue_depth"),
        ("hrpose_queue_requests", "Requests with crops waiting.", "queue_requests"),
    ):
        waiting = GaugeMetricFamily(name, help_text, labels=("model",))
        for model, done in counters.items():
            waiting.add_metric((model,), getattr(done, field))
        yield waiting


def _batch_sizes(counters: Mapping[str, BatchCounters]) -> Metric:
    family = HistogramMetricFamily("hrpose_batch_crops", "Crops in a batch.", labels=("model",))
    for model, done in counters.items():
        edges = (0, *BATCH_SIZES)
        within = [
            sum(n for size, n in done.sizes.items() if low < size <= high)
            for low, high in pairwise(edges)
        ]
        buckets = [
            (str(float(size)), float(n))
            for size, n in zip(BATCH_SIZES, accumulate(within), strict=True)
        ]
        total = float(sum(done.sizes.values()))
        crops = float(sum(size * n for size, n in done.sizes.items()))
        family.add_metric((model,), [*buckets, ("+Inf", total)], crops)
    return family
