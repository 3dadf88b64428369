"""A job says that nobody waits, and tells those who asked."""

import pytest

from service.errors import Cancelled, DeadlineExceeded
from service.inference.job import Job


def test_cancelling_tells_everybody_once_and_late_comers_at_once() -> None:
    job, told = Job(), []
    job.when_cancelled(lambda: told.append("early"))
    job.check()
    assert told == []
    job.cancel()
    job.cancel()
    assert told == ["early"]
    job.when_cancelled(lambda: told.append("late"))
    assert told == ["early", "late"]
    with pytest.raises(Cancelled):
        job.check()


def test_a_job_without_time_left_is_late() -> None:
    job = Job(0.0)
    assert job.remaining_s == 0.0
    with pytest.raises(DeadlineExceeded):
        job.check()
