"""What operators are told of a job's life: a line in the log at each turn, with `event` for programs, and its spans.

Never its prompt, nor anything else that its client wrote.
"""

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime

from jobs.record import Attempt, Job, JobError
from jobs.spec import JobInput
from jobs.telemetry import spans
from jobs.telemetry.logs import about
from jobs.telemetry.spans import Stage

log = logging.getLogger(__name__)


def accepted(job_id: str, owner: str, job_input: JobInput) -> None:
    """Tell of a submit that became a job."""
    asked = job_input.model_dump(include={"width", "height", "num_inference_steps", "num_images", "priority"})
    ids = {"job_id": job_id, "attempt": 0, "key": owner}
    log.info("job %s accepted", job_id, extra={"event": "job.accepted", **ids, **asked})


def replayed(job_id: str, owner: str) -> None:
    """Tell of a submit that was sent again."""
    ids = {"job_id": job_id, "key": owner}
    log.info("job %s was accepted before", job_id, extra={"event": "job.replayed", **ids})


def left_queue(job: Attempt, status: str) -> None:
    """Tell of a queued job that ended: as canceled or expired."""
    with about(job):
        log.info("job %s %s in the queue", job.id, status, extra={"event": f"job.{status}"})


def lost(job: Attempt, status: str, now: datetime) -> None:
    """Tell of an attempt whose worker fell silent.

    Args:
        job: at this attempt.
        status: that the job has now.
        now: when that was noticed.
    """
    error = JobError(code="worker_lost", message="its worker fell silent", retryable=True)
    with about(job):
        more = {"event": f"job.{status}", "worker": job.worker, **({"error": error.code} if status == "failed" else {})}
        log.warning("job %s attempt %d lost its worker: now %s", job.id, job.attempt, status, extra=more)
    if job.started_at:
        spans.attempted(job, (now - job.started_at).total_seconds(), "lost", error=error)


def ended(
    job: Job,
    outcome: str,
    *,
    timings: Mapping[str, float],
    seconds: float,
    stages: Sequence[Stage],
    error: JobError | None,
) -> None:
    """Tell of an attempt that its worker has ended.

    Args:
        job: as it was claimed.
        outcome: the job's status; `lost` or `refused`, where it is another worker's.
        timings: of the job, if it has ended now (`Job.timings`).
        seconds: since it was claimed.
        stages: of the attempt.
        error: why it failed.
    """
    more = {
        "event": f"job.{outcome}",
        "worker": job.worker,
        "timings": {name: round(value, 4) for name, value in timings.items()},
        **({"error": error.code} if error else {}),
    }
    with about(job):
        log.info("job %s attempt %d: %s", job.id, job.attempt, outcome, extra=more)
    if outcome not in ("lost", "refused"):  # else it was told when it was taken away
        spans.attempted(job, seconds, outcome, stages=stages, error=error)
