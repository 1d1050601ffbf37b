"""Several observers as one, none of which can do a job harm."""
# ruff: noqa: D102 - the base class tells what the points are

import logging
from collections.abc import Callable, Sequence

from jobs.record import ImageRecord, JobError
from pipeline import Generation
from worker.held import HeldJob
from worker.observers.observer import Observer

log = logging.getLogger(__name__)


class FanOut(Observer):
    """Tells each observer of each point, in order; what one raises is logged, and the job goes on."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def claimed(self, held: HeldJob) -> None:
        self._tell(lambda observer: observer.claimed(held))

    def begun(self, held: HeldJob) -> None:
        self._tell(lambda observer: observer.begun(held))

    def drawn(self, held: HeldJob) -> None:
        self._tell(lambda observer: observer.drawn(held))

    def delivered(self, held: HeldJob, generation: Generation) -> None:
        self._tell(lambda observer: observer.delivered(held, generation))

    def committed(self, held: HeldJob, images: Sequence[ImageRecord]) -> None:
        self._tell(lambda observer: observer.committed(held, images))

    def failed(self, held: HeldJob, error: JobError, exception: Exception) -> None:
        self._tell(lambda observer: observer.failed(held, error, exception))

    def ended(self, held: HeldJob, outcome: str) -> None:
        self._tell(lambda observer: observer.ended(held, outcome))

    def _tell(self, point: Callable[[Observer], None]) -> None:
        for observer in self._observers:
            try:
                point(observer)
            except Exception:
                log.exception("an observer failed; the job goes on")
