"""Following a job until it ends, without asking Redis over and over, for as long as its client is there."""

import asyncio
import contextlib
import math
import re
import time
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

from fastapi import Request
from redis.exceptions import RedisError
from tenacity import AsyncRetrying, retry_if_exception_type, stop_before_delay, wait_fixed

from api.deps import Services
from jobs.keys import ApiKey
from jobs.store.answers import Found

MAX_WAIT = 60.0
LOOK_AGAIN_SECONDS = 60.0  # should a change ever be missed, nobody waits for ever
OUTAGE_SECONDS = 30.0  # that Redis may be away before those who wait are told

T = TypeVar("T")


def wait_preference(prefer: str | None) -> float:
    """Return the seconds that a `Prefer: wait=N` header asks for (RFC 7240), at most `MAX_WAIT`; 0 without one."""
    match = re.search(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,9})\"?", prefer or "", re.IGNORECASE)
    return min(MAX_WAIT, float(match[1])) if match else 0.0


async def follow(
    services: Services, job_id: str, owner: str, seconds: float, key: ApiKey | None = None
) -> AsyncIterator[Found]:
    """Give a job now and at each of its changes, until it has ended, the time is over, or this process is to end.

    While Redis is away it waits on, for `OUTAGE_SECONDS` at most. So that its absence is told at once to who comes
    anew, the caller has looked before.

    Args:
        services: the API's parts.
        job_id: the job.
        owner: who asks.
        seconds: how long to follow.
        key: by which it is asked for; `LOOK_AGAIN_SECONDS` after it was revoked there is no more, either.

    Raises:
        JobGoneError: it was deleted or is past its retention.
        JobUnknownError: there is none of that id, or it is another owner's.
        redis.exceptions.RedisError: Redis is away for long, or when the time is over.
    """
    deadline = time.monotonic() + seconds
    async with services.events.watch(job_id) as changed:
        version = -1
        while True:
            changed.clear()
            # Who waits for an answer, and is told 503 instead, may send the request again and have it drawn twice.
            patience = min(OUTAGE_SECONDS, deadline - time.monotonic())
            found: Found = await patient(patience)(services.store.get, job_id, owner)
            if found.job.version != version:
                version = found.job.version
                yield found
            left = deadline - time.monotonic()
            revoked = key and services.keys and not services.keys.has(key)
            if left <= 0 or not found.job.status.active or services.events.closing or revoked:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, LOOK_AGAIN_SECONDS)):
                    await changed.wait()


def patient(seconds: float) -> AsyncRetrying:
    """Return what calls again and again while Redis is away, for some seconds."""
    return AsyncRetrying(
        retry=retry_if_exception_type(RedisError), wait=wait_fixed(1), stop=stop_before_delay(seconds), reraise=True
    )


async def ended(services: Services, job_id: str, owner: str) -> Found:
    """Return a job once it has ended, however long that takes; an active one when this process is to end.

    Args:
        services: the API's parts.
        job_id: the job.
        owner: who asks.

    Raises:
        JobGoneError: it was deleted or is past its retention.
        JobUnknownError: there is none of that id, or it is another owner's.
        redis.exceptions.RedisError: Redis is away for long.
    """
    async for found in follow(services, job_id, owner, math.inf):
        last = found
    return last


async def unless_disconnected(request: Request, work: Coroutine[Any, Any, T]) -> T | None:
    """Return what work comes to; None when the client left before, and then the work is given up."""
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        working.cancel()
        leaving.cancel()


async def _disconnected(request: Request) -> None:
    # The body has been read, so what comes next is the client's leaving.
    while (await request.receive())["type"] != "http.disconnect":
        pass
