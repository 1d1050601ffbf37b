"""Threads for calls that block: each kind has its own, so that a kind that hangs holds up no other."""

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from api.http.at_work import resting

P = ParamSpec("P")
T = TypeVar("T")


class Threads:
    """Threads for one kind of call.

    Args:
        kind: the threads' name.
        most: calls at once; others wait for their turn.
    """

    def __init__(self, kind: str, most: int) -> None:
        self._executor = ThreadPoolExecutor(most, thread_name_prefix=kind)

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what a call returns; it is given up, if it has not begun, when who waits for it is canceled."""
        context = contextvars.copy_context()
        async with resting():
            return await asyncio.wrap_future(self._executor.submit(lambda: context.run(call, *args, **kwargs)))

    def soon(self, call: Callable[[], object]) -> None:
        """Call without waiting for it."""
        self._executor.submit(call)

    def close(self) -> None:
        """Begin no more calls."""
        self._executor.shutdown(wait=False, cancel_futures=True)
