"""What many ask for at the same time: one look at a time, whose answer is kept for a second for all who ask."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")

KEPT_SECONDS = 1.0


class Kept(Generic[T]):
    """The answer of one look.

    Args:
        look: asks anew. What it raises is raised for all who wait for it, and is not kept.
    """

    def __init__(self, look: Callable[[], Awaitable[T]]) -> None:
        self._look = look
        self._looking: asyncio.Task[T] | None = None
        self._ended = float("-inf")

    async def get(self) -> T:
        """Return what the look under way comes to, or the last one came to if it ended within a second."""
        now = asyncio.get_running_loop().time()
        if self._looking is None or (self._looking.done() and now - self._ended >= KEPT_SECONDS):
            self._looking = asyncio.create_task(self._answer())
        # Who leaves does not end it for the others.
        return await asyncio.shield(self._looking)

    async def _answer(self) -> T:
        answer = await self._look()
        self._ended = asyncio.get_running_loop().time()
        return answer
