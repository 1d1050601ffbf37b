"""What the store answers to clients of the service, and what it raises."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from jobs.record import ERROR_CODES, Job, JobStatus
from jobs.store.eta import Place


@dataclass(frozen=True)
class Allowance:
    """What a key's rate leaves: submits now, and the seconds until all of a minute's are there again."""

    remaining: int
    reset_seconds: float


@dataclass(frozen=True)
class Found:
    """A job and, while it is queued, its place."""

    job: Job
    place: Place | None


@dataclass(frozen=True)
class Submitted:
    """The answer to a submit; `job_id` is None when it was refused, `found` also for a mismatch or a deleted job."""

    outcome: Literal[
        "created", "replayed", "mismatch", "full", "over_share", "over_memory", "too_fast", "too_much", "too_many"
    ]
    job_id: str | None
    found: Found | None = None
    retry_seconds: float | None = (
        None  # too_fast, too_much: until it is taken; full, over_share: those that a job takes, if known
    )
    allowance: Allowance | None = None  # of a key with a rate


class Outcome(NamedTuple):
    """How a job ended; `code` is that of a failure's error, else empty."""

    status: str
    code: str = ""


OUTCOMES = (
    *map(Outcome, (JobStatus.SUCCEEDED, JobStatus.CANCELED, JobStatus.EXPIRED)),
    *(Outcome(JobStatus.FAILED, code) for code in ERROR_CODES),
)


@dataclass(frozen=True)
class Overview:
    """The queue as a whole."""

    workers: int
    trouble: str | None  # what keeps all of them from their work
    dead_letters: int
    oldest_queued_seconds: float
    counts: dict[JobStatus, int]
    ended: dict[Outcome, int]  # since the service's first job; those that never came about included, as 0


ENDS = tuple(status for status in JobStatus if not status.active)


@dataclass(frozen=True)
class Usage:
    """What one owner has in the queue and in Redis, and what it has had; work counts guidance (`JobInput.cost`)."""

    queued: int
    running: int
    queued_work: int
    oldest_queued_seconds: float
    kept_bytes: int
    ended: dict[JobStatus, int]
    drawn_work: int  # of the jobs that succeeded
    waits: dict[float, int]  # in the queue, up to so many seconds each; those of fewer are counted there alone
    waited_seconds: float  # by all of them


class Memory(NamedTuple):
    """Of Redis: bytes in use, and its `maxmemory` (0: it has none)."""

    used: int
    maximum: int


class JobGoneError(LookupError):
    """The job was deleted or is past its retention."""


class JobUnknownError(LookupError):
    """No such job, or it is another owner's."""


class BadCursorError(ValueError):
    """The cursor is not one that `list` returned."""
