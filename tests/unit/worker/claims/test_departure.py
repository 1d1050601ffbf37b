"""Whoever leaves hands the jobs at hand back: also one that is being claimed, and one on which the device hangs."""

import os
import threading
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from jobs.record import Job, JobError, JobStatus
from jobs.spec import JobInput
from jobs.store.worker import Claim
from worker.claims.departure import Departure
from worker.executor.watchdog import watch
from worker.held import HeldJob
from worker.observers.observer import Observer

NOW = datetime.now(UTC)
JOB = Job(
    id="job_1",
    owner="someone",
    status=JobStatus.RUNNING,
    version=2,
    created_at=NOW,
    deadline=NOW,
    started_at=NOW,
    input=JobInput(prompt="a cat"),
)


class Ends(Observer):
    """Remembers how attempts ended."""

    def __init__(self) -> None:
        self.told: list[tuple[HeldJob, str]] = []

    def ended(self, held: HeldJob, outcome: str) -> None:
        self.told.append((held, outcome))


@pytest.fixture
def gone(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Is set where the process would end."""
    end = threading.Event()
    monkeypatch.setattr(os, "_exit", lambda _code: end.set())
    return end


def test_a_job_that_is_being_claimed_is_handed_back(gone: threading.Event) -> None:
    held: list[HeldJob] = []
    requeued: list[Claim] = []
    leases: Any = SimpleNamespace(held=lambda: list(held), stop=lambda: None)

    def requeue(claim: Claim, _stages: dict[str, float]) -> str:
        requeued.append(claim)
        return "queued"

    store: Any = SimpleNamespace(requeue=requeue)
    ends = Ends()
    departure = Departure(leases, store, ends)
    with departure.put_off():
        threading.Thread(target=departure.leave, args=(0,)).start()
        held.append(HeldJob(Claim(JOB, "worker-1")))
        assert not gone.is_set()
    assert gone.wait(30)
    assert requeued == [held[0].claim]
    assert ends.told == [(held[0], "queued")]


def test_a_hung_step_is_told_as_the_loss_that_it_is(gone: threading.Event) -> None:
    held = HeldJob(Claim(JOB.model_copy(update={"losses": 2}), "worker-1"))  # SIGKILLs, as far as anybody knows
    held.drawing = True
    told: list[tuple[Claim, JobError]] = []

    def lose(claim: Claim, error: JobError) -> str:
        told.append((claim, error))
        return "failed"

    leases: Any = SimpleNamespace(held=lambda: [held], stop=lambda: None)
    store: Any = SimpleNamespace(lose=lose)
    executor: Any = SimpleNamespace(sign_of_life=lambda: 1)
    watch(executor, 0.25, Departure(leases, store, Ends()).leave_hung)
    assert gone.wait(30)
    ((claim, error),) = told
    assert claim is held.claim
    assert error.message == "a step made no progress for 0.25 s: this was loss 3 of 3"
    assert held.error == error
