"""Tells the log and traces of jobs."""

import logging
from collections.abc import Mapping
from weakref import WeakKeyDictionary

from jobs.record import JobError
from jobs.telemetry import lifecycle
from jobs.telemetry.spans import Stage
from pipeline import Generation
from worker.held import HeldJob
from worker.observers.observer import Observer

log = logging.getLogger(__name__)


class LogAndSpans(Observer):
    """Logs what went wrong and how each attempt ended, and makes the attempt's spans."""

    def __init__(self) -> None:
        self._stages: WeakKeyDictionary[HeldJob, list[Stage]] = WeakKeyDictionary()

    def drawn(self, held: HeldJob, generation: Generation) -> None:
        """Note when the stages on the device were."""
        self._note(held, generation.timings)

    def delivered(self, held: HeldJob, _generation: Generation, seconds: dict[str, float]) -> None:
        """Note when the stages beside the device were."""
        self._note(held, seconds)

    def failed(self, held: HeldJob, error: JobError, exception: Exception) -> None:
        """Log why, which is more than the client is told, with the traceback of what nobody expected."""
        unexpected = exception if error.code == "internal_error" else None
        log.error("job %s failed: %s: %s", held.claim.job.id, error.code, exception, exc_info=unexpected)

    def ended(self, held: HeldJob, outcome: str) -> None:
        """Log the outcome; make the spans."""
        lifecycle.ended(
            held.claim.job,
            outcome,
            total=held.age(),
            seconds=held.since_claimed(),
            stages=self._stages.get(held, ()),
            error=held.error,
        )

    def _note(self, held: HeldJob, stages: Mapping[str, float]) -> None:
        """Note stages that followed each other and end now, with the seconds of each."""
        noted = self._stages.setdefault(held, [])
        start = held.since_claimed() - sum(stages.values())
        for name, seconds in stages.items():
            noted.append(Stage(name, start, start + seconds))
            start += seconds
