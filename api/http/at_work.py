"""Requests at work in this process: few of each who asks, lest what one sends at once holds up all others.

The event loop does one thing after the other, and a request takes a dozen steps on it, between its looks into Redis.
With the requests of another at each of these steps before it, it would take as long as all of them. So who asks has a
few at work, and as many more as are left free; who has none at work begins at once. Of those of one that wait, what
changes something, such as a submit, goes before what reads: who follows many jobs can still submit one.

A request is at work until its answer begins, a quarter of a second at most, and rests while it waits for what takes
long: a job's next change, a name server, S3.
"""

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextvars import ContextVar

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.http.prefix import route_path
from api.http.rates import PROBES

LONGEST_SECONDS = 0.25  # at work: what takes longer is none of the event loop's, such as a Redis that hangs
MOST = 4  # at work at once; one who asks has as many as are left free, and at least one


class Work:
    """Who is at work, and who waits for it."""

    def __init__(self) -> None:
        self._at_work: Counter[str] = Counter()
        # What changes something, then what reads; those who were let in last come last.
        self._waiting: dict[str, tuple[deque[asyncio.Future[None]], deque[asyncio.Future[None]]]] = {}

    async def begin(self, asker: str, *, reads: bool) -> None:
        """Return when one more request of who asks may be at work."""
        if asker not in self._waiting and self._has_room(asker):
            self._at_work[asker] += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(asker, (deque(), deque()))[reads].append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._leave(asker, turn)
            else:  # it was let in at the same moment
                self.end(asker)
            raise

    def end(self, asker: str) -> None:
        """Note that a request is not at work any more, and let in who waits."""
        self._at_work[asker] -= 1
        if not self._at_work[asker]:
            del self._at_work[asker]
        for other in list(self._waiting):
            if self._has_room(other):
                changes, reads = self._waiting[other]
                turn = (changes or reads)[0]
                self._leave(other, turn)
                if other in self._waiting:
                    self._waiting[other] = self._waiting.pop(other)
                self._at_work[other] += 1
                turn.set_result(None)

    def _has_room(self, asker: str) -> bool:
        mine = self._at_work[asker]
        return not mine or mine < MOST - self._at_work.total()

    def _leave(self, asker: str, turn: asyncio.Future[None]) -> None:
        for line in self._waiting[asker]:
            if turn in line:
                line.remove(turn)
        if not any(self._waiting[asker]):
            del self._waiting[asker]


class Turn:
    """A request's turn: at work, or resting."""

    def __init__(self, work: Work, asker: str, *, reads: bool) -> None:
        self._work = work
        self._asker = asker
        self._reads = reads
        self._at_work = False
        self._end: asyncio.TimerHandle | None = None

    async def begin(self) -> None:
        """Return when the request may be at work."""
        if not self._at_work:
            await self._work.begin(self._asker, reads=self._reads)
            self._at_work = True
            self._end = asyncio.get_running_loop().call_later(LONGEST_SECONDS, self.end)

    def end(self) -> None:
        """Be at work no longer."""
        if self._at_work and self._end:
            self._at_work = False
            self._end.cancel()
            self._work.end(self._asker)


_turn: ContextVar[Turn | None] = ContextVar("turn", default=None)


@contextlib.asynccontextmanager
async def resting() -> AsyncIterator[None]:
    """Let others work for as long as this request waits for something that takes long; not in a request, do nothing.

    What is raised goes on without another turn: there is not much left to do.
    """
    turn = _turn.get()
    if turn:
        turn.end()
    yield
    if turn:
        await turn.begin()


class AtWork:
    """Lets requests work in turns; those that watch over the service need none."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._work = Work()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request (ASGI)."""
        if scope["type"] != "http" or route_path(scope) in PROBES:
            await self._app(scope, receive, send)
            return
        turn = Turn(self._work, scope["state"]["asker"], reads=scope["method"] in ("GET", "HEAD"))

        async def send_resting(message: Message) -> None:
            turn.end()  # from here on it is the client that is waited for
            await send(message)

        await turn.begin()
        before = _turn.set(turn)
        try:
            await self._app(scope, receive, send_resting)
        finally:
            _turn.reset(before)
            turn.end()
