"""Following jobs: one look at a job for each of its changes, however many follow it in this process."""

import asyncio
import contextlib
from collections.abc import Iterator

from redis.exceptions import RedisError
from tenacity import AsyncRetrying, retry_if_exception_type, stop_before_delay, wait_fixed

from jobs.events import EventHub
from jobs.record import Job
from jobs.store.answers import Found
from jobs.store.client import ClientStore

LOOK_AGAIN_SECONDS = 60.0  # should a change ever be missed, nobody waits for ever
OUTAGE_SECONDS = 30.0  # that Redis may be away before those who wait are told


def patient(seconds: float) -> AsyncRetrying:
    """Return what calls again and again while Redis is away, for some seconds."""
    return AsyncRetrying(
        retry=retry_if_exception_type(RedisError), wait=wait_fixed(1), stop=stop_before_delay(seconds), reraise=True
    )


class Following:
    """The jobs that are followed in this process."""

    def __init__(self, store: ClientStore, events: EventHub) -> None:
        self._store = store
        self._events = events
        self._jobs: dict[str, Followed] = {}

    @contextlib.contextmanager
    def watch(self, job: Job) -> Iterator["Followed"]:
        """Give what all see who follow a job; it is looked at until the last of them has left."""
        followed = self._jobs.get(job.id)
        if followed is None or followed.looking.done():
            followed = self._jobs[job.id] = Followed(job, self._store, self._events)
        followed.followers += 1
        try:
            yield followed
        finally:
            followed.followers -= 1
            if not followed.followers:
                followed.looking.cancel()
                if self._jobs.get(job.id) is followed:
                    del self._jobs[job.id]


class Followed:
    """A job as all see it who follow it.

    Attributes:
        found: what the last look found; None before the first one.
        news: set when there is more to see, or there will be no more; another one stands in its place then.
        looking: the task that looks, until the job has ended or this process is to end.
        followers: how many follow it.
    """

    def __init__(self, job: Job, store: ClientStore, events: EventHub) -> None:
        self.found: Found | None = None
        self.news = asyncio.Event()
        self.followers = 0
        self.looking = asyncio.create_task(self._look(job, store, events))
        self.looking.add_done_callback(self._over)

    def is_over(self) -> bool:
        """Tell whether there is no more to see.

        Raises:
            JobGoneError: the job was deleted or is past its retention.
            JobUnknownError: there is none of its id any more.
            redis.exceptions.RedisError: Redis is away for long.
        """
        if not self.looking.done():
            return False
        self.looking.result()
        return True

    async def _look(self, job: Job, store: ClientStore, events: EventHub) -> None:
        async with events.watch(job.id) as changed:
            while True:
                changed.clear()
                found: Found = await patient(OUTAGE_SECONDS)(store.get, job.id, job.owner)
                self.found = found
                if not found.job.status.active or events.closing:
                    return
                self._tell()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_AGAIN_SECONDS):
                        await changed.wait()

    def _tell(self) -> None:
        self.news.set()
        self.news = asyncio.Event()

    def _over(self, looking: asyncio.Task[None]) -> None:
        if not looking.cancelled():
            looking.exception()  # else asyncio logs one that nobody was left to see
        self._tell()
