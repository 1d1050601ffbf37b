"""A job's spans: each wait in the queue, each attempt, and the attempt's stages; children of the request that sent it.

They are made when it is over, of what is measured anyway, so that they cost the work nothing. Without OpenTelemetry's
SDK they are nothing at all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from jobs import __version__
from jobs.record import Attempt, Job, JobError
from jobs.telemetry.trace_context import context_of

_tracer = trace.get_tracer("zimage-service", __version__)


@dataclass(frozen=True)
class Stage:
    """A part of an attempt; from when to when, in seconds since the job was claimed."""

    name: str
    start: float
    end: float


def waited(job: Job) -> None:
    """Make the span of the wait that a claim has just ended."""
    if job.started_at:
        start = job.queued_at or job.created_at
        span = _start("zimage.queue", context_of(job.traceparent), start, _attributes(job))
        _end(span, job.started_at)


def attempted(
    job: Attempt, seconds: float, outcome: str, *, stages: Sequence[Stage] = (), error: JobError | None = None
) -> None:
    """Make the spans of an attempt that is over.

    Args:
        job: at this attempt.
        seconds: since the claim.
        outcome: what the attempt came to.
        stages: those of the attempt.
        error: why it failed.
    """
    claimed = job.started_at
    if claimed is None:
        return

    def at(offset: float) -> datetime:
        # By Redis' clock, like the wait: no clock is compared with another.
        return claimed + timedelta(seconds=offset)

    attributes = {
        **_attributes(job),
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "zimage.worker": job.worker or "",
        "zimage.outcome": outcome,
    }
    span = _start("zimage.job", context_of(job.traceparent), claimed, attributes, SpanKind.CONSUMER)
    within = trace.set_span_in_context(span)
    for stage in stages:
        _end(_start(stage.name, within, at(stage.start), {}), at(stage.end))
    if error:
        span.set_attribute("error.type", error.code)
        span.set_status(Status(StatusCode.ERROR, error.message))
    _end(span, at(seconds))


def _attributes(job: Attempt) -> dict[str, str | int]:
    return {
        "messaging.system": "redis",
        "messaging.destination.name": "pending",
        "messaging.message.id": job.id,
        "zimage.attempt": job.attempt,
        "zimage.key": job.owner,
    }


def _start(
    name: str,
    parent: Context,
    at: datetime,
    attributes: Mapping[str, str | int],
    kind: SpanKind = SpanKind.INTERNAL,
) -> Span:
    return _tracer.start_span(name, parent, kind, attributes, start_time=_nanoseconds(at))


def _end(span: Span, at: datetime) -> None:
    span.end(_nanoseconds(at))


def _nanoseconds(at: datetime) -> int:
    return int(at.timestamp() * 1e9)
