"""What several processes tell of themselves, in one text for Prometheus."""

from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

OWN = "process_"
"""What begins so is of one process, and no sum of it means anything."""

COUNTED = ("counter", "histogram")

Key = tuple[str, tuple[tuple[str, str], ...]]


def total(texts: Mapping[int, str], past: Iterable[str] = ()) -> str:
    """Counters, histograms and gauges summed; `process_*` of each with a label `worker`.

    texts: what processes tell now, by number.  past: the last words of others, of which only what
    they counted is taken. Facts (`*_info`) stand once; `*_created` is the earliest.
    """
    families = _Families()
    for worker, text in texts.items():
        for family in text_string_to_metric_families(text):
            families.add(family, {"worker": str(worker)} if family.name.startswith(OWN) else {})
    for text in past:
        for family in text_string_to_metric_families(text):
            is_counted = family.type in COUNTED or family.name.endswith("_created")
            if is_counted and not family.name.startswith(OWN):
                families.add(family, {})
    registry = CollectorRegistry()
    registry.register(families)
    return generate_latest(registry).decode()


class _Families(Collector):
    """Families of samples that are added up."""

    def __init__(self) -> None:
        self._families: dict[str, Metric] = {}
        self._values: dict[str, dict[Key, float]] = {}

    def add(self, family: Metric, labels: Mapping[str, str]) -> None:
        """Takes in the samples of a family, with more labels."""
        self._families.setdefault(family.name, family)
        values = self._values.setdefault(family.name, {})
        both = _both(family)
        for sample in family.samples:
            key = (sample.name, tuple({**sample.labels, **labels}.items()))
            values[key] = both(values[key], sample.value) if key in values else sample.value

    def collect(self) -> Iterator[Metric]:
        """The sums."""
        for name, family in self._families.items():
            summed = Metric(name, family.documentation, family.type)
            for (sample, labels), value in self._values[name].items():
                summed.add_sample(sample, dict(labels), value)
            yield summed


def _both(family: Metric) -> Callable[[float, float], float]:
    if family.name.endswith("_info"):
        return max
    if family.name.endswith("_created"):
        return min
    return float.__add__
