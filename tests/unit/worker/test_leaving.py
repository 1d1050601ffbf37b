"""A worker leaves in order from the first job on: also before Celery runs, and while a job is being claimed."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from celery.worker import state

from jobs.record import Job, JobError, JobStatus
from jobs.spec import JobInput
from jobs.store.worker import Claim
from worker.held import HeldJob
from worker.leaving import Departure, drain_at_shutdown, watch_device

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


@pytest.fixture
def restored() -> Iterator[None]:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    state.should_stop = None


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_celery_runs_ends_the_claims_and_celery(number: int) -> None:
    left, stop_claiming = threading.Event(), threading.Event()
    departure: Any = SimpleNamespace(leave=lambda _code: left.set())
    drain_at_shutdown(departure, stop_claiming, seconds=0.01)
    os.kill(os.getpid(), number)
    assert left.wait(30)
    assert stop_claiming.is_set()
    assert state.should_stop == os.EX_OK


def test_a_job_that_is_being_claimed_is_handed_back(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[HeldJob] = []
    requeued: list[Claim] = []
    gone = threading.Event()
    monkeypatch.setattr(os, "_exit", lambda _code: gone.set())
    leases: Any = SimpleNamespace(held=lambda: list(held), stop=lambda: None)

    def requeue(claim: Claim) -> str:
        requeued.append(claim)
        return "queued"

    store: Any = SimpleNamespace(requeue=requeue)
    departure = Departure(leases, store)
    with departure.put_off():
        threading.Thread(target=departure.leave, args=(0,)).start()
        held.append(HeldJob(Claim(JOB, "worker-1")))
        assert not gone.is_set()
    assert gone.wait(30)
    assert requeued == [held[0].claim]


def test_a_hung_step_is_told_as_the_loss_that_it_is() -> None:
    held = HeldJob(Claim(JOB.model_copy(update={"losses": 2}), "worker-1"))  # SIGKILLs, as far as anybody knows
    held.drawing = True
    told: list[tuple[HeldJob, JobError]] = []
    gone = threading.Event()

    def leave(_code: int, culprit: HeldJob, error: JobError) -> None:
        told.append((culprit, error))
        gone.set()
        time.sleep(3600)  # as it does not return

    leases: Any = SimpleNamespace(held=lambda: [held])
    departure: Any = SimpleNamespace(leave=leave)
    gpu: Any = SimpleNamespace(sign_of_life=lambda: 1)
    watch_device(departure, gpu, leases, timeout=0.25)
    assert gone.wait(30)
    ((culprit, error),) = told
    assert culprit is held
    assert error.message == "a step made no progress for 0.25 s: this was loss 3 of 3"
