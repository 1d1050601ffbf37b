"""How many answers with pictures are given at once, in all and to one key: each holds pieces of them, and asks S3."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from weakref import WeakValueDictionary

MOST = 64
MOST_OF_ONE = 32
WAIT_SECONDS = 10.0


class Turns:
    """The turns of one process."""

    def __init__(self) -> None:
        self._all = asyncio.Semaphore(MOST)
        self._of_one: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    @asynccontextmanager
    async def turn(self, owner: str) -> AsyncIterator[None]:
        """Wait for a turn, and have it.

        Raises:
            TimeoutError: there was none within `WAIT_SECONDS`.
        """
        mine = self._of_one.setdefault(owner, asyncio.Semaphore(MOST_OF_ONE))
        async with AsyncExitStack() as held:
            async with asyncio.timeout(WAIT_SECONDS):
                await held.enter_async_context(mine)
                await held.enter_async_context(self._all)
            yield
