"""SIGTERM and SIGINT: this worker drains, and leaves what is not finished in time to others."""

import logging
import signal
import threading
import time
from typing import Any

from celery.platforms import EX_OK
from celery.signals import worker_shutting_down
from celery.worker import state

from worker.claims.departure import Departure

log = logging.getLogger(__name__)


def drain_at_shutdown(departure: Departure, draining: threading.Event, seconds: float) -> None:
    """Arrange for an orderly exit at SIGTERM and SIGINT: nothing more is claimed, what is at hand goes on.

    Celery has handlers of its own, but only once it runs, and the first jobs are claimed before. Call it on the main
    thread.

    Args:
        departure: taken by what is not finished in time.
        draining: is set then.
        seconds: how long jobs may go on.
    """

    def leave_after_deadline() -> None:
        log.info("draining: no job is taken any more, those at hand have %.0f s", seconds)
        time.sleep(seconds)
        departure.leave(0)

    def on_shutting_down(**_: Any) -> None:
        draining.set()
        threading.Thread(target=leave_after_deadline, name="drain", daemon=True).start()

    def on_early_signal(*_: Any) -> None:
        on_shutting_down()
        state.should_stop = EX_OK  # type: ignore[assignment]  # a Celery that is just starting stops again

    worker_shutting_down.connect(on_shutting_down, weak=False)
    for early in (signal.SIGTERM, signal.SIGINT):
        signal.signal(early, on_early_signal)
