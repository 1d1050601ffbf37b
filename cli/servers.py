"""Commands that talk to Redis and S3 themselves: what goes wrong there, as one line for the operator."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cli.errors import UserError

if TYPE_CHECKING:
    import redis

    from jobs.settings import Settings


@contextmanager
def redis_client(settings: "Settings") -> "Iterator[redis.Redis]":
    """Give a client.

    Raises:
        UserError: Redis can't be reached, or refuses what was asked within.
    """
    from redis.exceptions import RedisError

    from jobs.addresses import authorities
    from jobs.store.redis_client import connect

    with connect(settings) as client:
        try:
            yield client
        except RedisError as error:
            chosen = "redis_url" in settings.model_fields_set
            unset = "set it, or name the directory of a running `zimage up` with --data"
            told = authorities.told(error, otherwise="" if chosen else unset)
            raise UserError(f"Redis at {settings.redis_url.place} (ZIMAGE_REDIS_URL): {told}") from error
