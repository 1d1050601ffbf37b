"""Ending the tasks that run beside the requests."""

import asyncio
from collections.abc import Iterable

CANCEL_SECONDS = 1.0  # after which a task that goes on is canceled again


async def end(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks, and wait until they have ended.

    Before Python 3.12 `asyncio.wait_for`, which redis-py writes with, loses a cancellation that comes in the moment in
    which the write is done (python/cpython#86296), so one may have to be said again.
    """
    running = set(tasks)
    while running:
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=CANCEL_SECONDS)
