"""A worker leaves in order from the first job on: also before Celery runs, and while a job is being claimed."""

import os
import signal
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery.worker import state

from worker.leaving import Departure, drain_at_shutdown


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
    held: list[Any] = []
    requeued: list[Any] = []
    gone = threading.Event()
    monkeypatch.setattr(os, "_exit", lambda _code: gone.set())
    leases: Any = SimpleNamespace(held=lambda: list(held), stop=lambda: None)
    store: Any = SimpleNamespace(requeue=requeued.append)
    departure = Departure(leases, store)
    with departure.put_off():
        threading.Thread(target=departure.leave, args=(0,)).start()
        held.append(SimpleNamespace(claim=SimpleNamespace(job=SimpleNamespace(id="job_1"))))
        assert not gone.is_set()
    assert gone.wait(30)
    assert requeued == [held[0].claim]
