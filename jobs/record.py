"""The job as it is kept: its states, its images, its error, and all that is known of it (`Job`).

Redis keeps a job as a hash of strings (written by the Lua scripts); `Job.from_record` reads one.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
)

from jobs.spec import JobInput

SCHEMA_VERSION = 3  # of the record in Redis; a worker leaves records of a newer schema alone


class JobStatus(StrEnum):
    """Where a job is in its life."""

    QUEUED = "queued"  # accepted, waiting for a worker
    RUNNING = "running"  # claimed by a worker that renews its lease
    SUCCEEDED = "succeeded"  # images are in S3
    FAILED = "failed"  # `error` says why
    CANCELED = "canceled"  # by its client
    EXPIRED = "expired"  # queued for too long

    @property
    def active(self) -> bool:
        """Whether the job can still change its state."""
        return self in (JobStatus.QUEUED, JobStatus.RUNNING)


class ImageRecord(BaseModel):
    """One finished image; `key` is its object in S3."""

    index: int
    seed: int
    width: int
    height: int
    bytes: int
    sha256: str
    key: str
    steps_skipped: float = 0.0  # images of workers from before it was told have none


# What `JobError.code` may be: docs/reliability.md explains each.
ERROR_CODES = (
    "worker_lost",
    "step_timeout",
    "device_error",
    "out_of_memory",
    "storage_unavailable",
    "deadline_exceeded",
    "invalid_input",
    "internal_error",
)


class JobError(BaseModel):
    """Why a job failed."""

    code: str = Field(examples=["worker_lost", "out_of_memory", "storage_unavailable"])
    message: str
    retryable: bool = Field(description="Whether the same job may succeed when sent again.")


def _from_microseconds(value: Any) -> Any:
    return datetime.fromtimestamp(int(value) / 1e6, UTC) if isinstance(value, str) else value


def _microseconds(value: Any) -> Any:
    return timedelta(microseconds=int(value)) if isinstance(value, str) else value


def _from_json(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


Timestamp = Annotated[datetime, BeforeValidator(_from_microseconds)]


class Attempt(BaseModel):
    """A job at one of its attempts, as far as logs and traces tell of it."""

    model_config = ConfigDict(frozen=True)

    id: str
    owner: str
    attempt: int = 0
    traceparent: str | None = None  # W3C Trace Context; jobs accepted by older versions have none
    worker: str | None = None
    started_at: Timestamp | None = None

    @classmethod
    def from_row(cls, row: Sequence[str | None]) -> "Attempt":
        """Read what `attempt_of` of the Lua scripts returns."""
        names = ("id", "owner", "attempt", "traceparent", "worker", "started_at")
        return cls.model_validate(dict(zip(names, row, strict=True)))


class Job(Attempt):
    """A job as the record in Redis has it."""

    status: JobStatus
    version: int
    created_at: Timestamp
    deadline: Timestamp
    queued_at: Timestamp | None = None  # the last time; jobs queued by older versions have none
    waited: Annotated[timedelta | None, BeforeValidator(_microseconds)] = None  # in the queue, up to the latest claim
    cancel_requested: bool = False  # its client wants a running job stopped
    finished_at: Timestamp | None = None
    losses: int = 0
    step: int = 0
    input: JobInput
    images: Annotated[list[ImageRecord], BeforeValidator(_from_json)] = []
    stages: Annotated[dict[str, float], BeforeValidator(_from_json)] = {}
    peak_vram_bytes: int = 0
    warnings: Annotated[list[str], BeforeValidator(_from_json)] = []
    error: Annotated[JobError | None, BeforeValidator(_from_json)] = None

    @classmethod
    def from_record(cls, record: Mapping[str, str]) -> Self:
        """Read the hash that the Lua scripts keep: times are microseconds, lists and objects JSON.

        Fields that a newer version of the service wrote are passed over.
        """
        job_input = JobInput.model_validate_json(record["input"], extra="ignore")
        return cls.model_validate({**record, "input": job_input})

    @property
    def timings(self) -> dict[str, float]:
        """Seconds, in their order; once the job has ended they add up to `total` (accepted to finished).

        `queue` is all its waiting to be claimed, `lost` what attempts took that came to nothing. Then come the stages
        of the last attempt, `device_wait` first, and `other`: what is in none of them.
        """
        if not (self.started_at or self.finished_at):
            return {}
        queue = self._queue()
        timings = {"queue": queue.total_seconds()}
        nothing_came = self.finished_at if not self.stages else None
        before = (nothing_came or self.started_at or self.created_at) - self.created_at
        if self.attempt and before > queue:
            timings["lost"] = (before - queue).total_seconds()
        timings |= self.stages
        if self.finished_at:
            total = (self.finished_at - self.created_at).total_seconds()
            timings["other"] = max(0.0, total - sum(timings.values()))
            timings["total"] = total
        return timings

    def _queue(self) -> timedelta:
        """Its waiting, up to the latest claim or, if it ended there, in the queue."""
        waited = self.waited
        if waited is None:  # claimed by an older version, or never
            waited = (self.started_at or self.created_at) - self.created_at
        if self.finished_at and not self.started_at and not self.stages:
            waited += self.finished_at - (self.queued_at or self.created_at)
        return waited
