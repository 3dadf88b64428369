"""Metrics of several processes in one text: what is summed, what is not, who is past."""

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from service.totals import total

Labels = tuple[tuple[str, str], ...]


def text_of(requests: float, seconds: tuple[float, ...] = (), route: str = "/pose") -> str:
    """What a process tells that answered so many requests."""
    registry = CollectorRegistry()
    counter = Counter("hrpose_requests", "Requests.", ("route",), registry=registry)
    counter.labels(route).inc(requests)
    histogram = Histogram("hrpose_seconds", "Time.", buckets=(1, 2), registry=registry)
    for second in seconds:
        histogram.observe(second)
    Gauge("hrpose_at_work", "Now.", registry=registry).set(requests)
    Gauge("hrpose_model_info", "A fact.", ("model",), registry=registry).labels("a").set(1)
    Gauge("process_open_fds", "Files.", registry=registry).set(requests)
    Counter("process_cpu_seconds", "Time.", registry=registry).inc(requests)
    return generate_latest(registry).decode()


def values(text: str) -> dict[tuple[str, Labels], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.mark.parametrize(
    ("name", "labels", "expected"),
    [
        ("hrpose_requests_total", (("route", "/pose"),), 5),
        ("hrpose_seconds_bucket", (("le", "1.0"),), 1),
        ("hrpose_seconds_bucket", (("le", "2.0"),), 3),
        ("hrpose_seconds_bucket", (("le", "+Inf"),), 4),
        ("hrpose_seconds_count", (), 4),
        ("hrpose_seconds_sum", (), 12.5),
        ("hrpose_at_work", (), 5),
        ("hrpose_model_info", (("model", "a"),), 1),
        ("process_open_fds", (("worker", "0"),), 2),
        ("process_open_fds", (("worker", "7"),), 3),
        ("process_cpu_seconds_total", (("worker", "7"),), 3),
    ],
)
def test_two_processes_as_one(name: str, labels: Labels, expected: float) -> None:
    told = values(total({0: text_of(2, (0.5, 1.5)), 7: text_of(3, (1.5, 9.0))}))
    assert told[name, labels] == expected
    assert ("process_open_fds", ()) not in told


def test_what_only_one_process_knows_is_told() -> None:
    told = values(total({0: text_of(2), 1: text_of(3, route="/detect")}))
    assert told["hrpose_requests_total", (("route", "/pose"),)] == 2
    assert told["hrpose_requests_total", (("route", "/detect"),)] == 3


def test_of_a_process_that_is_gone_only_what_it_counted_is_told() -> None:
    told = values(total({0: text_of(2)}, [text_of(3, (1.5,))]))
    assert told["hrpose_requests_total", (("route", "/pose"),)] == 5
    assert told["hrpose_seconds_count", ()] == 1
    assert told["hrpose_at_work", ()] == 2
    assert told["process_cpu_seconds_total", (("worker", "0"),)] == 2


def test_the_beginning_is_the_earliest() -> None:
    first, second = text_of(1), text_of(1)
    key = "hrpose_requests_created", (("route", "/pose"),)
    assert values(first)[key] < values(second)[key]
    assert values(total({0: second, 1: first}))[key] == values(first)[key]
    assert values(total({0: second}, [first]))[key] == values(first)[key]


def test_a_total_of_totals_is_a_total() -> None:
    one, two = text_of(2, (0.5,)), text_of(3)
    expected = values(total({0: one, 1: two}))
    assert values(total({0: total({0: one}), 1: total({1: two})})) == expected


def test_every_family_stands_once_with_its_type_and_help() -> None:
    text = total({0: text_of(2), 1: text_of(3)})
    for line in ("# TYPE hrpose_requests_total counter", "# TYPE hrpose_seconds histogram"):
        assert text.splitlines().count(line) == 1
    assert text.count("# HELP hrpose_requests_total Requests.\n") == 1
