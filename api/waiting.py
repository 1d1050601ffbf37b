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
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_fixed

from api.deps import Services
from jobs.client_store import Found

MAX_WAIT = 60.0
_LOOK_AGAIN = 60.0  # should a change ever be missed, nobody waits for ever
_OUTAGES = 30  # failed attempts, a second apart, for which an answer is held while Redis is away

T = TypeVar("T")


def wait_preference(prefer: str | None) -> float:
    """Return the seconds that a `Prefer: wait=N` header asks for (RFC 7240), at most `MAX_WAIT`; 0 without one."""
    match = re.search(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,9})\"?", prefer or "", re.IGNORECASE)
    return min(MAX_WAIT, float(match[1])) if match else 0.0


async def follow(services: Services, job_id: str, owner: str, seconds: float) -> AsyncIterator[Found]:
    """Give a job now and at each of its changes, until it has ended or the time is over.

    Args:
        services: the API's parts.
        job_id: the job.
        owner: who asks.
        seconds: how long to follow.

    Raises:
        JobGoneError: it was deleted or is past its retention.
        JobUnknownError: there is none of that id, or it is another owner's.
    """
    deadline = time.monotonic() + seconds
    async with services.events.watch(job_id) as changed:
        version = -1
        while True:
            changed.clear()
            found = await services.store.get(job_id, owner)
            if found.job.version != version:
                version = found.job.version
                yield found
            left = deadline - time.monotonic()
            if left <= 0 or not found.job.status.active:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, _LOOK_AGAIN)):
                    await changed.wait()


# A client that is told 503 now would send the request again, and have its pictures drawn twice.
@retry(retry=retry_if_exception_type(RedisError), wait=wait_fixed(1), stop=stop_after_attempt(_OUTAGES), reraise=True)
async def ended(services: Services, job_id: str, owner: str) -> Found:
    """Return a job once it has ended, however long that takes.

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
