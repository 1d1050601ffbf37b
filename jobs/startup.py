"""Waiting for Redis and S3 at start: says which address and which setting, and gives up after a stated time."""

import logging
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import redis
from botocore.exceptions import BotoCoreError, ClientError
from redis.exceptions import RedisError

from jobs.images import ImageStore
from jobs.settings import Settings

log = logging.getLogger(__name__)


class UnreachableError(RuntimeError):
    """A server that the service needs did not answer in time; the message says which and what to set."""


def wait_for_redis(client: redis.Redis, settings: Settings) -> None:
    """Return once Redis answers.

    Raises:
        UnreachableError: it did not within `ZIMAGE_STARTUP_TIMEOUT`.
    """
    url = urlsplit(settings.redis_url)
    address = f"Redis at {url.hostname}:{url.port or 6379} (ZIMAGE_REDIS_URL)"  # without the password
    _wait(address, client.ping, RedisError, settings.startup_timeout)


def wait_for_s3(images: ImageStore, settings: Settings) -> None:
    """Return once the bucket is there.

    Raises:
        UnreachableError: it was not within `ZIMAGE_STARTUP_TIMEOUT`.
    """
    address = (
        f"S3 at {settings.s3_endpoint or 'AWS'} (ZIMAGE_S3_ENDPOINT), bucket {settings.s3_bucket} (ZIMAGE_S3_BUCKET)"
    )
    _wait(address, images.check, (BotoCoreError, ClientError), settings.startup_timeout)


def _wait(
    address: str,
    check: Callable[[], object],
    errors: type[Exception] | tuple[type[Exception], ...],
    timeout: float,
) -> None:
    deadline = time.monotonic() + timeout
    told = False
    while True:
        try:
            check()
        except errors as error:
            left = deadline - time.monotonic()
            if left <= 0:
                raise UnreachableError(f"{address} did not answer within {timeout:.0f} s: {error}") from error
            if not told:
                log.warning("waiting up to %.0f s for %s: %s", left, address, error)
                told = True
            time.sleep(min(0.5, left))
        else:
            return
