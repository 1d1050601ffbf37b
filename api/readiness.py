"""Whether jobs can be taken and brought to their end."""

import asyncio
from collections.abc import Awaitable
from typing import NamedTuple, TypeVar

from redis.exceptions import RedisError

from api.kept import Kept
from api.threads import Threads
from jobs.objects.images import ImageStore
from jobs.objects.refusals import STORAGE_ERRORS, told
from jobs.settings import Settings
from jobs.store.client import ClientStore

T = TypeVar("T")

CHECK_SECONDS = 3.0  # for which an answer waits for a server that it can do without


class Found(NamedTuple):
    """What a look came to."""

    workers: int
    missing: list[str]  # empty: all is there


class Readiness:
    """Asks Redis and S3 for one process.

    Args:
        settings: name the bucket.
        store: Redis.
        images: S3.
    """

    def __init__(self, settings: Settings, store: ClientStore, images: ImageStore) -> None:
        self._bucket = f"S3 bucket {settings.s3_bucket} (ZIMAGE_S3_ENDPOINT, ZIMAGE_S3_BUCKET)"
        self._store = store
        self._images = images
        self._threads = Threads("readiness", 1)
        # `/readyz` needs no key, so many may ask at once while Redis or S3 hangs.
        self._found = Kept(self._ask_all)

    async def look(self) -> Found:
        """Return what was found within the last second, or is found now."""
        return await self._found.get()

    def close(self) -> None:
        """Begin no more looks."""
        self._threads.close()

    async def _ask_all(self) -> Found:
        missing: list[str] = []
        overview, _ = await asyncio.gather(
            _ask("Redis (ZIMAGE_REDIS_URL)", self._store.overview(), missing),
            _ask(self._bucket, self._threads.run(self._images.check), missing),
        )
        if overview and overview.trouble:
            missing.append(f"no worker can deliver: {overview.trouble}")
        return Found(overview.workers if overview else 0, missing)


async def _ask(name: str, check: Awaitable[T], missing: list[str]) -> T | None:
    """Return a server's answer; where there is none, add that to what is missing."""
    try:
        return await asyncio.wait_for(check, CHECK_SECONDS)
    except TimeoutError:
        missing.append(f"{name} does not answer")
    except RedisError as error:
        missing.append(f"{name}: {error}")
    except STORAGE_ERRORS as error:
        missing.append(f"{name}: {told(error)}")
    return None
