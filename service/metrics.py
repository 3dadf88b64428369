"""What Prometheus may read: requests by route and status, their time, places and batches."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service.serving import Serving

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """The counters of one application, in a registry of its own."""

    def __init__(self, serving: Serving) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "hrpose_requests", "Requests answered.", ("route", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "hrpose_request_seconds",
            "Time from the first byte of a request to the last of its answer.",
            ("route",),
            buckets=SECONDS,
            registry=self._registry,
        )
        self._registry.register(_EngineCollector(serving))

    def count(self, route: str, status: int, seconds: float) -> None:
        """Takes note of an answered request."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """Everything in Prometheus's text format."""
        return generate_latest(self._registry)


class _EngineCollector(Collector):
    """Asks the engine when it is read, so that nothing is counted twice."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving

    def collect(self) -> Iterator[Metric]:
        crops = CounterMetricFamily("hrpose_crops", "Person crops run.", labels=("model",))
        batches = CounterMetricFamily("hrpose_batches", "Batches run.", labels=("model",))
        shared = CounterMetricFamily(
            "hrpose_shared_batches", "Batches with crops of several requests.", labels=("model",)
        )
        waiting = GaugeMetricFamily(
            "hrpose_queue_crops", "Person crops waiting.", labels=("model",)
        )
        for model, counters in self._serving.engine.counters().items():
            crops.add_metric((model,), counters.crops)
            batches.add_metric((model,), counters.batches)
            shared.add_metric((model,), counters.shared_batches)
            waiting.add_metric((model,), counters.queue_depth)
        yield from (crops, batches, shared, waiting)
        yield GaugeMetricFamily(
            "hrpose_requests_at_work",
            "Requests that hold a place.",
            value=self._serving.requests_at_work,
        )
        yield GaugeMetricFamily(
            "hrpose_body_bytes", "Bytes of bodies held.", value=self._serving.bytes_held
        )
