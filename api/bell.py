"""Rings the doorbell without holding up the event loop."""

import logging
from concurrent.futures import Future, ThreadPoolExecutor

from kombu.exceptions import OperationalError

from jobs.doorbell import celery_app, ring
from jobs.settings import Settings

log = logging.getLogger(__name__)


class Bell:
    """Publishes on one thread of its own, with one connection."""

    def __init__(self, settings: Settings) -> None:
        self._app = celery_app(settings)
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="bell")

    def ring_soon(self) -> None:
        """Ring; returns at once. A ring that fails is not lost: the reaper rings for jobs that nobody was told of."""
        self._executor.submit(ring, self._app).add_done_callback(_log_failure)

    def close(self) -> None:
        """Publish what is still waiting, then stop."""
        self._executor.shutdown()
        self._app.close()


def _log_failure(rung: "Future[None]") -> None:
    error = rung.exception()
    if isinstance(error, OperationalError):
        log.warning("doorbell not rung (%s): the reaper will", error)
    elif error is not None:
        log.error("doorbell not rung", exc_info=error)
