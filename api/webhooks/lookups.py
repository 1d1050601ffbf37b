"""Looking names up, so that those of one owner whose servers don't answer hold up no other owner's.

The system's resolver blocks, for a minute and more where it asks several name servers under several domains, and can't
be stopped. So each lookup has a thread of its own, and an owner has a few at once. Who waits is told when the time is
over; the thread stays behind until the resolver gives up, and takes its owner's place for as long.
"""

import asyncio
import socket
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future

SECONDS = 5.0  # for a lookup; and as long for its turn
AT_ONCE = 16  # of one owner

Lookup = Callable[[str, int], Sequence[str]]


class CrowdedError(Exception):
    """As many lookups of an owner as there may be at once got no answer in time."""


def system_lookup(host: str, port: int) -> Sequence[str]:
    """Return a host's addresses in the order in which the system would try them.

    Raises:
        OSError: it has none, or (`socket.EAI_AGAIN`) they can't be found out now.
    """
    return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


class Lookups:
    """Lookups for owners.

    Args:
        lookup: what resolves a name; blocks.
    """

    def __init__(self, lookup: Lookup = system_lookup) -> None:
        self._lookup = lookup
        self._turns: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(AT_ONCE))
        self.hanging: Counter[str] = Counter()  # by owner: those that nobody waits for any longer

    async def find(self, owner: str, host: str, port: int) -> Sequence[str]:
        """Look a name up.

        Raises:
            CrowdedError: the owner's others took all of the time.
            TimeoutError: no answer within `SECONDS`.
            OSError, UnicodeError: as the lookup has it.
        """
        turn = self._turns[owner]
        try:
            async with asyncio.timeout(SECONDS):
                await turn.acquire()
        except TimeoutError:
            raise CrowdedError from None
        answer = self._begin(host, port)
        answer.add_done_callback(lambda _: turn.release())
        try:
            async with asyncio.timeout(SECONDS):
                return await asyncio.shield(answer)
        finally:
            if not answer.done():
                self.hanging[owner] += 1
                answer.add_done_callback(lambda _: self.hanging.subtract([owner]))

    def _begin(self, host: str, port: int) -> asyncio.Future[Sequence[str]]:
        found: Future[Sequence[str]] = Future()
        found.set_running_or_notify_cancel()  # it can't be canceled from now on

        def look_up() -> None:
            try:
                found.set_result(self._lookup(host, port))
            except (OSError, UnicodeError) as error:
                found.set_exception(error)

        answer = asyncio.wrap_future(found)
        try:
            # A daemon: the process doesn't wait for it at its end, as it would for a pool's threads.
            threading.Thread(target=look_up, name=f"lookup of {host}", daemon=True).start()
        except RuntimeError:  # there are as many threads as the system allows
            found.set_exception(OSError(socket.EAI_AGAIN, "no thread"))
        return answer
