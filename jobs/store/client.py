"""What a client of the service may do with jobs: submit, read, list, cancel, delete. Asynchronous; the API uses it.

Every method raises `redis.exceptions.RedisError` when Redis can't be reached or refuses (full memory): nothing was
changed then, or the same call may simply be sent again.
"""

import asyncio
import base64
import binascii
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import redis.asyncio
from redis.exceptions import ResponseError

from jobs.limits import NO_LIMITS, Limits
from jobs.model_card import ModelCard
from jobs.record import Attempt, Job, JobStatus
from jobs.room import Room
from jobs.settings import Settings
from jobs.spec import JobInput
from jobs.store import scripts
from jobs.store.answers import (
    ENDS,
    OUTCOMES,
    Allowance,
    BadCursorError,
    Found,
    JobGoneError,
    JobUnknownError,
    Memory,
    Outcome,
    Overview,
    Submitted,
    Usage,
)
from jobs.store.eta import Ahead
from jobs.store.scripts import MICROSECONDS, pairs
from jobs.telemetry import lifecycle
from jobs.telemetry.trace_context import current_traceparent

# Of a job in Redis, measured with Valkey 9.1; docs/reliability.md has the table.
BYTES = 3600
BYTES_PER_IMAGE = 350
ALLOCATED = 1.25  # bytes for each of a text: the allocator's sizes are a quarter apart


class ClientStore:
    """Jobs in Redis, from the client's side."""

    def __init__(self, client: redis.asyncio.Redis, settings: Settings) -> None:
        self._redis = client
        self._settings = settings
        self._prefix = settings.redis_prefix
        self._scripts = {
            name: client.register_script(scripts.source(name))
            for name in ("submit", "read", "list", "cancel", "delete", "overview", "served", "usage")
        }

    async def _run(self, script: str, *args: Any) -> Any:
        return await self._scripts[script](keys=[self._prefix], args=list(args))

    async def submit(
        self,
        job_id: str,
        owner: str,
        job_input: JobInput,
        *,
        idempotency_key: str | None,
        digest: str,
        other_digests: Iterable[str] = (),
        limits: Limits = NO_LIMITS,
        warnings: Sequence[str] = (),
    ) -> Submitted:
        """Write the job's record, its idempotency key and its place in the queue at once, or refuse it.

        The trace at hand becomes the job's.

        Args:
            job_id: new and unique.
            owner: name of the API key.
            job_input: with its seed filled in.
            idempotency_key: the client's, or None.
            digest: of the request before its seed was filled in (`JobInput.digest`).
            other_digests: that the same request may have had when the idempotency key came first.
            limits: the owner's.
            warnings: what is told of the job before it is drawn.
        """
        settings = self._settings
        shift = {"high": -1, "normal": 0, "low": 1}[job_input.priority] * settings.priority_seconds
        ttl = min(settings.queue_ttl, job_input.timeout_seconds or settings.queue_ttl)
        outcome, answer, *left = await self._run(
            "submit",
            job_id,
            owner,
            job_input.model_dump_json(),
            shift * MICROSECONDS,
            job_input.cost,
            job_input.num_inference_steps,
            settings.queue_limit,
            ttl,
            " ".join(sorted(job_input.needs)),
            idempotency_key or "",
            " ".join([digest, *other_digests]),
            settings.idempotency_ttl,
            _bytes(job_input, idempotency_key),
            limits.model_dump_json(include=set(Limits.model_fields), exclude_none=True),
            "" if job_input.webhook_url is None else 1,
            current_traceparent() or "",
            json.dumps(list(warnings)),
        )
        if outcome == "created":
            lifecycle.accepted(answer[0], owner, job_input)
        elif outcome == "replayed":
            lifecycle.replayed(answer[0], owner)
        allowance = Allowance(int(left[0]), float(left[1])) if left else None
        if outcome in ("created", "replayed", "mismatch"):
            job_id, *described = answer
            return Submitted(outcome, job_id, await self._seen(described) if described else None, None, allowance)
        return Submitted(outcome, None, None, float(answer) if answer else None, allowance)

    async def has_seen(self, owner: str, idempotency_key: str) -> bool:
        """Tell whether the owner's idempotency key came before and is remembered."""
        return bool(await self._redis.exists(f"{self._prefix}idempotency:{owner}:{idempotency_key}"))

    async def get(self, job_id: str, owner: str) -> Found:
        """Return a job.

        Raises:
            JobGoneError: it was deleted or is past its retention.
            JobUnknownError: there is none of that id, or it is another owner's.
        """
        answer = await self._run("read", job_id, owner)
        match answer:
            case ["gone"]:
                raise JobGoneError
            case ["unknown"]:
                raise JobUnknownError
        _, *described = answer
        return await self._seen(described)

    async def _seen(self, described: Sequence[Any]) -> Found:
        """Read what `describe` of the Lua scripts returns."""
        record, *row = described
        if row == [""]:
            return _found(record, None, None)
        ahead = Ahead.from_row(row)
        return _found(record, ahead, await self._loading(ahead.workers))

    async def _loading(self, workers: int) -> ModelCard | None:
        """Return the card that tells how long the next worker will load its model; None while one is alive."""
        return None if workers else await self.last_card()

    async def list(
        self, owner: str, *, status: JobStatus | None, limit: int, cursor: str | None
    ) -> tuple[list[Found], str | None]:
        """Return a page of the owner's jobs, newest first, and the cursor of the next page (None at the end).

        Raises:
            BadCursorError: `cursor` is not one of ours.
        """
        newest = "+inf" if cursor is None else f"({_decode_cursor(cursor)}"
        rows, next_page, rate, workers = await self._run("list", owner, status or "", newest, limit)
        card = await self._loading(workers)
        jobs = []
        for job, *row in rows:
            jobs.append(_found(job, Ahead.from_row([*row, rate, workers]) if row[0] else None, card))
            await asyncio.sleep(0)  # others are waiting for the event loop
        return jobs, _encode_cursor(int(next_page)) if next_page else None

    async def cancel(self, job_id: str, owner: str) -> tuple[Literal["canceled", "requested", "ended"], str]:
        """Cancel a job; return what came of it and the job's status.

        Raises:
            JobUnknownError: there is none of that id (or it is gone), or it is another owner's.
        """
        outcome, status, *canceled = await self._run("cancel", job_id, owner)
        if outcome == "unknown":
            raise JobUnknownError
        for row in canceled:
            lifecycle.left_queue(Attempt.from_row(row), "canceled")
        return outcome, status

    async def bury(self, job_id: str) -> None:
        """Take a job off the dead letters, before its images are removed: a retry meanwhile would lose its own."""
        await self._redis.zrem(f"{self._prefix}dead", job_id)

    async def delete(self, job_id: str, owner: str) -> Literal["deleted", "active", "unknown"]:
        """Delete an ended job's record; its images must have been removed before."""
        answer: Literal["deleted", "active", "unknown"] = await self._run(
            "delete", job_id, owner, self._settings.tombstone_ttl
        )
        return answer

    async def overview(self) -> Overview:
        """Return counts, of queue and ended jobs, and the age of the oldest queued one."""
        workers, dead_letters, oldest, counts, ended, trouble = await self._run("overview")
        by_status = {JobStatus(status): count for status, count in pairs(counts)}
        by_outcome = {Outcome(*outcome.split(":")): int(count) for outcome, count in pairs(ended)}
        by_outcome = dict.fromkeys(OUTCOMES, 0) | by_outcome
        return Overview(workers, trouble or None, dead_letters, float(oldest), by_status, by_outcome)

    async def usage(self, owners: Iterable[str]) -> dict[str, Usage]:
        """Return what each of these owners has and has had, and each other one of whose jobs something is kept."""
        bounds, rows = await self._run("usage", *owners)
        return {owner: _usage(row, bounds) for owner, *row in rows}

    async def memory(self) -> Memory | None:
        """Return Redis' memory; None where it does not tell, as some managed ones."""
        try:
            info = await self._redis.info("memory")
        except ResponseError:
            return None
        return Memory(info["used_memory"], info["maxmemory"])

    async def last_card(self) -> ModelCard | None:
        """Return the card of the worker heard last, None if there never was one."""
        card, _ = await self.served()
        return card

    async def served(self) -> tuple[ModelCard | None, Sequence[Room]]:
        """Return the card of the worker heard last, None if there never was one; and whose memory may be short.

        That is of all workers alive, or of the one heard last where none is; empty where one has room for all pictures.
        """
        text, rooms = await self._run("served")
        card = ModelCard.model_validate_json(text) if text else None
        if not rooms:
            return card, [card.room] if card and card.room else []
        return card, [] if rooms == [""] else [Room.from_words(words) for words in rooms]


def _bytes(job_input: JobInput, idempotency_key: str | None) -> int:
    """Return the most that a job takes of Redis: its record once it has ended, its indexes, its messages."""
    text = len(job_input.model_dump_json().encode()) + 2 * len(idempotency_key or "")
    return BYTES + BYTES_PER_IMAGE * job_input.num_images + int(text * ALLOCATED)


def _usage(row: Sequence[Any], bounds: Sequence[str]) -> Usage:
    queued, running, work, oldest, kept, had = row
    count: defaultdict[str, int] = defaultdict(int, {name: int(number) for name, number in pairs(had)})
    return Usage(
        queued=queued,
        running=running,
        queued_work=max(0, int(work)),  # workers of a release that does not count it may have taken jobs
        oldest_queued_seconds=float(oldest),
        kept_bytes=int(kept),
        ended={status: count[status] for status in ENDS},
        drawn_work=count["work"],
        waits={float(bound): count[f"wait:{bound}"] for bound in bounds} | {math.inf: count["wait:longer"]},
        waited_seconds=count["waited"] / MICROSECONDS,
    )


def _found(record: Sequence[str], ahead: Ahead | None, card: ModelCard | None) -> Found:
    return Found(Job.from_record(dict(pairs(record))), ahead.place(card) if ahead else None)


def _encode_cursor(created_at: int) -> str:
    return base64.urlsafe_b64encode(str(created_at).encode()).decode().rstrip("=")


def _decode_cursor(cursor: str) -> int:
    try:
        created_at = int(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (binascii.Error, ValueError) as error:
        raise BadCursorError(cursor) from error
    if _encode_cursor(created_at) != cursor or not 0 <= created_at < 2**53:
        raise BadCursorError(cursor)
    return created_at
