"""Connections to Redis, set up so that a dead or half-open one is noticed within seconds."""

import asyncio
from typing import Any
from urllib.parse import urlsplit

import redis
import redis.asyncio
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry

from jobs.settings import Settings

RETRIES = 2
CONNECTIONS = 16  # of an asyncio client
COMMAND_SECONDS = 10.0  # of one of its commands: waiting for a connection, making one, and all tries
SOCKET_OPTIONS: dict[str, Any] = {
    "socket_timeout": 5,
    "socket_connect_timeout": 3,
    "socket_keepalive": True,
    "health_check_interval": 5,
}


def _options() -> dict[str, Any]:
    return {**SOCKET_OPTIONS, "decode_responses": True}


def address(settings: Settings) -> str:
    """Return where Redis is, as people are told it: without the password."""
    url = urlsplit(settings.redis_url)
    return url.path if url.scheme == "unix" else f"{url.hostname}:{url.port or 6379}"


def connect(settings: Settings) -> redis.Redis:
    """Return a blocking client; it connects at its first command."""
    retry = Retry(ExponentialWithJitterBackoff(base=0.05, cap=0.5), RETRIES)
    return redis.Redis.from_url(settings.redis_url, retry=retry, **_options())


class _Bounded(redis.asyncio.Redis):
    """Gives up a command in time for whoever waits for its answer: a Redis that hangs would cost it all its retries.

    redis-py tries a connection three times for each of a command's three tries, and each waits for `socket_timeout`.
    """

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send a command and return what Redis answers (redis-py)."""
        try:
            async with asyncio.timeout(COMMAND_SECONDS):
                return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        except TimeoutError:
            raise redis.TimeoutError(f"no answer within {COMMAND_SECONDS:.0f} s") from None


def connect_async(settings: Settings) -> redis.asyncio.Redis:
    """Return an asyncio client; it connects at its first command.

    A command, but not a pipeline, takes `COMMAND_SECONDS` at most. However many are under way at once, it has few
    connections; the others wait for their turn.
    """
    retry = redis.asyncio.retry.Retry(ExponentialWithJitterBackoff(base=0.05, cap=0.5), RETRIES)
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        settings.redis_url, max_connections=CONNECTIONS, timeout=None, retry=retry, **_options()
    )
    return _Bounded.from_pool(pool)
