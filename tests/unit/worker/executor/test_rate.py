"""How fast jobs are drawn, as the queue's ETA counts it."""

from contextlib import suppress
from types import SimpleNamespace

import pytest

from worker.executor.rate import Rate


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    standing = Clock()
    monkeypatch.setattr("worker.executor.rate.time", SimpleNamespace(monotonic=standing.monotonic))
    return standing


def do(rate: Rate, clock: Clock, work: int, asked: float, begins: float, ends: float) -> None:
    clock.now = begins
    with rate.measured(work, asked):
        clock.now = ends


def test_nothing_is_known_before_the_first_measurement(clock: Clock) -> None:
    assert Rate().per_second is None


def test_a_gap_before_a_job_that_waited_counts_and_time_without_work_does_not(clock: Clock) -> None:
    rate = Rate()
    do(rate, clock, 200, asked=100, begins=100, ends=110)
    assert rate.per_second == 20
    do(rate, clock, 200, asked=105, begins=112, ends=120)  # 10 s from the end of the first
    assert rate.per_second == pytest.approx(20)
    do(rate, clock, 200, asked=500, begins=500, ends=510)
    assert rate.per_second == pytest.approx(20)


def test_a_job_that_was_less_work_than_expected_makes_no_worker_quicker(clock: Clock) -> None:
    rate = Rate()
    with rate.measured(200, asked=100) as taken:
        clock.now = 105
        taken.work = 100
    assert rate.per_second == 20


def test_the_last_jobs_count_most(clock: Clock) -> None:
    rate = Rate()
    for start in range(100, 200, 10):
        do(rate, clock, 100, asked=start, begins=start, ends=start + 10)
    for start in range(200, 300, 10):
        do(rate, clock, 200, asked=start, begins=start, ends=start + 10)
    assert 18 < (rate.per_second or 0) < 20


def test_a_job_that_is_given_up_is_not_counted_and_what_follows_it_is_from_its_end(clock: Clock) -> None:
    rate = Rate()
    do(rate, clock, 200, asked=100, begins=100, ends=110)
    with suppress(InterruptedError), rate.measured(200, asked=110):
        clock.now = 130
        raise InterruptedError
    assert rate.per_second == 20
    do(rate, clock, 200, asked=115, begins=130, ends=140)
    assert rate.per_second == pytest.approx(20)
