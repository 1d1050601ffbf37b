"""Waiting for Redis and S3 at start: says which address and which setting, and gives up after a stated time.

A Redis that may lose what the service accepts is warned of.
"""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

import redis
from redis.exceptions import RedisError

from jobs.addresses import authorities
from jobs.objects.images import ImageStore
from jobs.objects.refusals import STORAGE_ERRORS, told
from jobs.settings import Settings
from jobs.store.durability import Finding, examine

T = TypeVar("T")

log = logging.getLogger(__name__)


class UnreachableError(RuntimeError):
    """A server that the service needs did not answer in time; the message says which and what to set."""


def wait_for_redis(client: redis.Redis, settings: Settings) -> None:
    """Return once Redis answers; log what it may lose.

    Raises:
        UnreachableError: it did not within `ZIMAGE_STARTUP_TIMEOUT`.
    """

    def ask() -> list[Finding]:
        client.ping()  # INFO is answered also while Redis reads its data
        return examine(client)

    address = settings.redis_url
    if address.unverified:
        log.warning("Redis at %s: %s", address.place, address.unverified)
    findings = _wait(f"Redis at {address.place} (ZIMAGE_REDIS_URL)", ask, RedisError, settings.startup_timeout)
    for finding in findings:
        if finding.level != "ok":
            log.warning("Redis at %s: %s (see docs/reliability.md)", address.place, finding.message)


def wait_for_s3(images: ImageStore, settings: Settings) -> None:
    """Return once the bucket is there.

    Raises:
        UnreachableError: it was not within `ZIMAGE_STARTUP_TIMEOUT`.
    """
    _wait(images.address, images.check, STORAGE_ERRORS, settings.startup_timeout)


def _wait(
    server: str,
    check: Callable[[], T],
    errors: type[Exception] | tuple[type[Exception], ...],
    timeout: float,
) -> T:
    deadline = time.monotonic() + timeout
    warned = False
    while True:
        try:
            return check()
        except errors as error:
            left = deadline - time.monotonic()
            reason = _told(error)
            if left <= 0:
                raise UnreachableError(f"{server} could not be used within {timeout:.0f} s: {reason}") from error
            if not warned:
                log.warning("waiting up to %.0f s for %s: %s", left, server, reason)
                warned = True
            time.sleep(min(0.5, left))


def _told(error: Exception) -> str:
    if isinstance(error, RedisError):
        return authorities.told(error)
    return told(error)
