"""The soak test in small, and what its report takes for a failure."""

import pytest

from tests.conftest import ROOT
from tests.soak import Report, Sample, soak


def sampled(rss: list[float], files: int = 20, more_files: int = 0) -> Report:
    """A report of samples a second apart, with more files open in its last half."""
    report = Report(seconds=float(len(rss)))
    for i, value in enumerate(rss):
        late = more_files if i > len(rss) / 2 else 0
        report.samples.append(Sample(float(i), value, files + late, 10))
    return report


def test_memory_that_rises_while_warming_up_and_stays_is_level() -> None:
    report = sampled([300.0 + min(i, 10) * 20 for i in range(120)])
    assert report.failures() == []
    assert report.growth.rss == pytest.approx(0.0)


def test_memory_that_goes_on_growing_is_a_failure() -> None:
    (failure,) = sampled([300.0 + i for i in range(120)]).failures()
    assert "memory grew by" in failure


def test_open_files_that_are_not_closed_are_a_failure() -> None:
    (failure,) = sampled([300.0] * 120, more_files=40).failures()
    assert "40 more files" in failure


def test_ten_seconds_of_mixed_traffic_change_no_answer_and_leave_nothing_open() -> None:
    report = soak([ROOT / "docs" / "street.jpg"], clients=8, seconds=10)
    assert sum(report.answers.values()) > 8
    # Ten seconds do not warm a server up, so its memory says nothing yet.
    assert [f for f in report.failures() if not f.startswith("memory")] == []
