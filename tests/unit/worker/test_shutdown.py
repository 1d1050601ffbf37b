"""A worker drains in order from the first signal on, also before Celery runs."""

import os
import signal
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery.worker import state

from worker.shutdown import drain_at_shutdown


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
    left, draining = threading.Event(), threading.Event()
    departure: Any = SimpleNamespace(leave=lambda _code: left.set())
    drain_at_shutdown(departure, draining, seconds=0.01)
    os.kill(os.getpid(), number)
    assert left.wait(30)
    assert draining.is_set()
    assert state.should_stop == os.EX_OK
