"""What a worker may do with jobs: claim, renew, report, commit, fail, hand back; and what the reaper does.

Blocking. Every method raises `redis.exceptions.RedisError` when Redis can't be reached; the same call may then be sent
again.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import redis

from jobs.model_card import ModelCard
from jobs.record import SCHEMA_VERSION, Attempt, ImageRecord, Job, JobError, JobStatus
from jobs.room import Room
from jobs.settings import Settings
from jobs.store import scripts
from jobs.store.scripts import MICROSECONDS, pairs
from jobs.telemetry import lifecycle, spans

MAX_LOSSES = 3  # a job that was lost with its worker this often is failed
UNDRAWN_TTL = 86_400  # seconds at most that a canceled or expired job is kept: it has no images
MOST_RETIRED = 100  # jobs at once
_RETIRED_AGAIN_SECONDS = 60  # after which a job that is still there is given to somebody else
_WORKER_LOST = JobError(
    code="worker_lost", message=f"{MAX_LOSSES} workers were lost while drawing this job", retryable=True
)

Verdict = Literal["ok", "cancel", "lost"]


@dataclass(frozen=True)
class Claim:
    """A job that this worker holds; `attempt` is the fencing token."""

    job: Job
    worker: str

    @property
    def fence(self) -> tuple[str, str, int]:
        """What every later call must name: job, worker, attempt."""
        return self.job.id, self.worker, self.job.attempt


class AloneError(Exception):
    """The best queued job is given only to a worker that holds no other."""


class WorkerStore:
    """Jobs in Redis, from the worker's side."""

    def __init__(self, client: redis.Redis, settings: Settings) -> None:
        self._redis = client
        self._settings = settings
        self._prefix = settings.redis_prefix
        self._lease = int(settings.lease_seconds * MICROSECONDS)
        self._scripts = {
            name: client.register_script(scripts.source(name))
            for name in (
                "claim",
                "heartbeat",
                "progress",
                "commit",
                "fail",
                "requeue",
                "lose",
                "reap",
                "expire",
                "retire",
                "delete",
            )
        }

    def _run(self, script: str, *args: Any) -> Any:
        return self._scripts[script](keys=[self._prefix], args=list(args))

    def claim(
        self,
        worker: str,
        number: int,
        *,
        alone: bool,
        abilities: frozenset[str] = frozenset(),
        room: Room | None = None,
    ) -> Claim | None:
        """Take the best queued job that the worker can do; None when none waits.

        Args:
            worker: this worker's id.
            number: of its claims that got a job so far: called again after an error it gives the job that the
                call before may have claimed.
            alone: whether it holds no other job.
            abilities: what its card announces that it can do.
            room: what its card announces of its memory.

        Raises:
            AloneError: the best job was lost with its worker before, so it is given only to a worker that is alone.
        """
        able = " ".join(sorted(abilities))
        arguments = (worker, self._lease, SCHEMA_VERSION, int(alone), number, able, room.words() if room else "")
        flat, expired = self._run("claim", *arguments)
        _tell_expired(map(Attempt.from_row, expired))
        if not flat:
            return None
        if flat == ["alone"]:
            raise AloneError
        job = Job.from_record(dict(pairs(flat)))
        spans.waited(job)
        return Claim(job, worker)

    def heartbeat(
        self,
        worker: str,
        card: ModelCard,
        rate: float | None,
        claims: Sequence[Claim],
        *,
        trouble: str | None = None,
    ) -> list[Verdict]:
        """Renew the worker's presence and its leases; return a verdict for each claim.

        Args:
            worker: this worker's id.
            card: what it serves.
            rate: measured work per second, None when nothing was measured yet.
            claims: the jobs that it holds.
            trouble: what keeps it from its work, None: nothing.
        """
        held = [part for claim in claims for part in (claim.job.id, claim.job.attempt)]
        verdicts: list[Verdict] = self._run(
            "heartbeat",
            worker,
            self._lease,
            card.model_dump_json(),
            card.room.words() if card.room else "",
            "" if rate is None else rate,
            trouble or "",
            *held,
        )
        return verdicts

    def depart(self, worker: str) -> None:
        """Take the worker out of the live ones: it leaves on its own account."""
        self._redis.zrem(f"{self._prefix}workers", worker)
        self._redis.delete(f"{self._prefix}worker:{worker}")

    def progress(self, claim: Claim, step: int) -> Verdict:
        """Report denoising steps done; learn whether to go on."""
        verdict: Verdict = self._run("progress", *claim.fence, step)
        return verdict

    def commit(
        self,
        claim: Claim,
        images: Sequence[ImageRecord],
        stages: Mapping[str, float],
        peak_vram_bytes: int,
        warnings: Sequence[str],
    ) -> Literal["succeeded", "canceled", "refused"]:
        """End a job with its images; refused when another attempt has it."""
        outcome: Literal["succeeded", "canceled", "refused"] = self._run(
            "commit",
            *claim.fence,
            json.dumps([image.model_dump() for image in images]),
            json.dumps(dict(stages)),
            peak_vram_bytes,
            json.dumps(list(warnings)),
        )
        return outcome

    def may_keep(self, job: Job) -> bool:
        """Tell whether the images of the job's attempt are the result that it has or may get.

        Attempts have the same number again after a Redis that lost its last writes: they may be another worker's.
        """
        status, attempt = self._redis.hmget(f"{self._prefix}job:{job.id}", "status", "attempt")
        return attempt == str(job.attempt) and status in (JobStatus.RUNNING, JobStatus.SUCCEEDED)

    def fail(
        self, claim: Claim, error: JobError, stages: Mapping[str, float] | None = None
    ) -> Literal["failed", "canceled", "refused"]:
        """End a job with an error, and the seconds of what was done; refused when another attempt has it."""
        outcome: Literal["failed", "canceled", "refused"] = self._run(
            "fail", *claim.fence, error.model_dump_json(), json.dumps(dict(stages or {}))
        )
        return outcome

    def requeue(
        self, claim: Claim, stages: Mapping[str, float] | None = None
    ) -> Literal["queued", "canceled", "refused"]:
        """Hand a job back without counting a loss; one that its client wants stopped ends as canceled, with stages."""
        outcome: Literal["queued", "canceled", "refused"] = self._run(
            "requeue", *claim.fence, json.dumps(dict(stages or {}))
        )
        return outcome

    def lose(self, claim: Claim, error: JobError) -> Literal["queued", "failed", "canceled", "refused"]:
        """Give up a job because of which this worker must end: a loss, and the last one fails it with `error`."""
        outcome: Literal["queued", "failed", "canceled", "refused"] = self._run(
            "lose", *claim.fence, MAX_LOSSES, error.model_dump_json()
        )
        return outcome

    def reap(self) -> dict[str, str]:
        """Take jobs from workers that fell silent; return what became of each."""
        time, rows = self._run("reap", self._lease, MAX_LOSSES, _WORKER_LOST.model_dump_json())
        now = datetime.fromtimestamp(int(time) / MICROSECONDS, UTC)
        outcomes: dict[str, str] = {}
        for row, outcome in rows:
            lost = Attempt.from_row(row)
            lifecycle.lost(lost, outcome, now)
            outcomes[lost.id] = outcome
        return outcomes

    def expire(self) -> list[str]:
        """End jobs queued for too long; return their ids."""
        expired = [Attempt.from_row(row) for row in self._run("expire")]
        _tell_expired(expired)
        return [job.id for job in expired]

    def retire(self) -> list[str]:
        """Take up to `MOST_RETIRED` jobs past their retention, to remove them; nobody else gets them for a minute."""
        ttl = self._settings.job_ttl
        old: list[str] = self._run("retire", ttl, min(ttl, UNDRAWN_TTL), MOST_RETIRED, _RETIRED_AGAIN_SECONDS)
        return old

    def delete(self, job_id: str) -> None:
        """Delete the record of an ended job; its images must have been removed before."""
        self._run("delete", job_id, "", self._settings.tombstone_ttl)

    def pending(self) -> int:
        """Return the number of queued jobs."""
        return self._redis.zcard(f"{self._prefix}pending")


def _tell_expired(jobs: Iterable[Attempt]) -> None:
    for job in jobs:
        lifecycle.left_queue(job, "expired")
