"""How many of an expensive kind of answers are made at once, in all and for one key: each holds memory."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from weakref import WeakValueDictionary

from api.http.at_work import resting

WAIT_SECONDS = 10.0


class Turns:
    """The turns of one process.

    Args:
        most: in all.
        most_of_one: of one key.
    """

    def __init__(self, most: int, most_of_one: int) -> None:
        self._most_of_one = most_of_one
        self._all = asyncio.Semaphore(most)
        self._of_one: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    @asynccontextmanager
    async def turn(self, owner: str) -> AsyncIterator[None]:
        """Wait for a turn, and have it.

        Raises:
            TimeoutError: there was none within `WAIT_SECONDS`.
        """
        mine = self._of_one.setdefault(owner, asyncio.Semaphore(self._most_of_one))
        async with AsyncExitStack() as held:
            async with resting(), asyncio.timeout(WAIT_SECONDS):
                await held.enter_async_context(mine)
                await held.enter_async_context(self._all)
            yield
