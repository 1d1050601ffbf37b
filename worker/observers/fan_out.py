"""Several observers as one."""
# ruff: noqa: D102 - the base class tells what the points are

from collections.abc import Sequence

from jobs.record import ImageRecord, JobError
from pipeline import Generation
from worker.held import HeldJob
from worker.observers.observer import Observer


class FanOut(Observer):
    """Tells each observer of each point, in order."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def claimed(self, held: HeldJob) -> None:
        for observer in self._observers:
            observer.claimed(held)

    def drawn(self, held: HeldJob, generation: Generation) -> None:
        for observer in self._observers:
            observer.drawn(held, generation)

    def delivered(self, held: HeldJob, generation: Generation, seconds: dict[str, float]) -> None:
        for observer in self._observers:
            observer.delivered(held, generation, seconds)

    def committed(self, held: HeldJob, images: Sequence[ImageRecord]) -> None:
        for observer in self._observers:
            observer.committed(held, images)

    def failed(self, held: HeldJob, error: JobError, exception: Exception) -> None:
        for observer in self._observers:
            observer.failed(held, error, exception)

    def ended(self, held: HeldJob, outcome: str) -> None:
        for observer in self._observers:
            observer.ended(held, outcome)
