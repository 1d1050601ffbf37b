"""Following a job until it ends, without asking Redis over and over."""

import asyncio
import re
import time
from collections.abc import AsyncIterator

from api.deps import Services
from jobs.client_store import Found

MAX_WAIT = 60.0
_LOOK_AGAIN = 5.0  # a change can be missed while Redis restarts


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
            try:
                await asyncio.wait_for(changed.wait(), min(left, _LOOK_AGAIN))
            except TimeoutError:
                continue
