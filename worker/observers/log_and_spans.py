"""Tells the log and traces of jobs."""

import logging
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

    def begun(self, held: HeldJob) -> None:
        """Note when the wait for the device was."""
        self._note(held)

    def drawn(self, held: HeldJob) -> None:
        """Note when the stages on the device were."""
        self._note(held)

    def delivered(self, held: HeldJob, _generation: Generation) -> None:
        """Note when the stages beside the device were."""
        self._note(held)

    def failed(self, held: HeldJob, error: JobError, exception: Exception) -> None:
        """Log why, which is more than the client is told, with the traceback of what nobody expected."""
        unexpected = exception if error.code == "internal_error" else None
        log.error("job %s failed: %s: %s", held.claim.job.id, error.code, exception, exc_info=unexpected)

    def ended(self, held: HeldJob, outcome: str) -> None:
        """Log the outcome; make the spans, also of stages that were stopped."""
        self._note(held)
        lifecycle.ended(
            held.claim.job,
            outcome,
            timings=held.timings(),
            seconds=held.since_claimed(),
            stages=self._stages.get(held, ()),
            error=held.error,
        )

    def _note(self, held: HeldJob) -> None:
        """Note the stages that came since the last look: they followed each other and end now."""
        noted = self._stages.setdefault(held, [])
        known = {stage.name for stage in noted}
        new = {name: seconds for name, seconds in held.stages.items() if name not in known}
        start = held.since_claimed() - sum(new.values())
        for name, seconds in new.items():
            noted.append(Stage(name, start, start + seconds))
            start += seconds
