"""The Celery side of the worker: hears the doorbell and lets a task thread run the job."""

import gc
import logging
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import celery.apps.worker
from celery import Celery
from celery.apps.worker import Worker
from celery.signals import setup_logging
from kombu import Connection
from redis.exceptions import RedisError

from jobs.doorbell import TASK, celery_app
from jobs.settings import Settings
from worker.ring_transport import RingTransport

log = logging.getLogger(__name__)

RESTART_SECONDS = 5.0


def hear_the_bell(settings: Settings, run: Callable[[], bool], draining: threading.Event, name: str) -> None:
    """Run Celery with a task thread a slot until a signal stops it.

    Celery gives up when Redis refuses a command, as it does when its memory is full: then it is started again. It
    leaves its connection open (5.7), and a Redis that stays full would cost one after the other.

    Args:
        settings: where the bell is, and how many slots there are.
        run: does a job, if one waits.
        draining: is set once Celery is not to be started again.
        name: this worker's id.
    """
    # Whoever listens to this signal sets up the logging instead of Celery: that was done when the process started.
    setup_logging.connect(_leave_logging_alone)
    # It prints at shutdown what `worker.shutdown` logs.
    celery.apps.worker.safe_say = lambda *_: None  # type: ignore[attr-defined]
    # Celery warns root of pickled messages; ours are JSON, and they have no content.
    warnings.filterwarnings("ignore", message="You're running the worker with superuser privileges")
    while not draining.is_set():
        left_open: list[Connection] = []
        _build_worker(settings, run, name, left_open).start()
        for connection in left_open:
            with suppress(RedisError):
                connection.close()
        if not draining.wait(RESTART_SECONDS):
            log.warning("Celery gave up and is started again")


def _leave_logging_alone(**_: Any) -> None:
    pass


def _build_worker(settings: Settings, run: Callable[[], bool], name: str, connection: list[Connection]) -> Worker:
    """Return a worker that keeps its latest connection in the list."""
    # Gossip, mingle, heartbeat and remote control are off: they grow with the square of the fleet, and the leases tell
    # who is alive.
    app: Celery = celery_app(settings)
    app.conf.worker_enable_remote_control = False
    app.task(name=TASK, shared=False)(run)  # else every app that is made later has it, in place of its own
    connect = app.connection_for_read

    def connect_and_keep(*args: Any, **options: Any) -> Connection:
        gc.collect()  # the last connection's epoll descriptor hangs on a cycle of garbage
        connection[:] = [connect(*args, transport=RingTransport, **options)]
        return connection[0]

    app.connection_for_read = connect_and_keep  # type: ignore[method-assign]
    return app.Worker(
        hostname=name,
        pool="threads",
        concurrency=settings.worker_slots,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        loglevel="WARNING",
        quiet=True,
    )
