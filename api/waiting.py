"""Following a job until it ends, without asking Redis over and over, for as long as its client is there."""

import asyncio
import contextlib
import math
import re
import time
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

from fastapi import Request

from api import following
from api.deps import Services
from api.http.at_work import resting
from jobs.keys import ApiKey
from jobs.store.answers import Found

MAX_WAIT = 60.0

T = TypeVar("T")


def wait_preference(prefer: str | None) -> float:
    """Return the seconds that a `Prefer: wait=N` header asks for (RFC 7240), at most `MAX_WAIT`; 0 without one."""
    match = re.search(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,9})\"?", prefer or "", re.IGNORECASE)
    return min(MAX_WAIT, float(match[1])) if match else 0.0


async def follow(services: Services, found: Found, seconds: float, key: ApiKey | None = None) -> AsyncIterator[Found]:
    """Give a job as it was found, and at each change from then on, until it has ended or the time is over.

    It ends, too, when this process is to end. While Redis is away it waits on, for `OUTAGE_SECONDS` at most; whoever
    looked before was told of its absence at once.

    Args:
        services: the API's parts.
        found: what its owner's look at it found.
        seconds: how long to follow.
        key: by which it is asked for; `LOOK_AGAIN_SECONDS` after it was revoked there is no more, either.

    Raises:
        JobGoneError: it was deleted or is past its retention.
        JobUnknownError: there is none of that id any more.
        redis.exceptions.RedisError: Redis is away for long.
    """
    deadline = time.monotonic() + seconds
    yield found
    if not found.job.status.active:
        return
    with services.following.watch(found.job) as followed:
        while True:
            news, over = followed.news, followed.is_over()
            # What the others saw last may be older than what was found.
            if followed.found and followed.found.job.version > found.job.version:
                found = followed.found
                yield found
            left = deadline - time.monotonic()
            revoked = key and services.keys and not services.keys.has(key)
            if over or left <= 0 or revoked:
                return
            async with resting():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(left, following.LOOK_AGAIN_SECONDS)):
                        await news.wait()


async def waited(services: Services, found: Found, seconds: float = math.inf) -> Found:
    """Return a job once it has ended; an active one when the time is over or this process is to end.

    Args:
        services: the API's parts.
        found: what its owner's look at it found.
        seconds: how long to wait.

    Raises:
        JobGoneError: it was deleted or is past its retention.
        JobUnknownError: there is none of that id any more.
        redis.exceptions.RedisError: Redis is away for long.
    """
    async for latest in follow(services, found, seconds):
        found = latest
    return found


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
