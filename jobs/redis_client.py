"""Connections to Redis, set up so that a dead or half-open one is noticed within seconds."""

from typing import Any
from urllib.parse import urlsplit

import redis
import redis.asyncio
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry

from jobs.settings import Settings

RETRIES = 2
CONNECTIONS = 16  # of an asyncio client
TURN_SECONDS = 20  # that a command waits for one of them; clients wait 30 for an answer
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


def connect_async(settings: Settings) -> redis.asyncio.Redis:
    """Return an asyncio client; it connects at its first command.

    However many commands are under way at once, it has few connections; the others wait for their turn.
    """
    retry = redis.asyncio.retry.Retry(ExponentialWithJitterBackoff(base=0.05, cap=0.5), RETRIES)
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        settings.redis_url, max_connections=CONNECTIONS, timeout=TURN_SECONDS, retry=retry, **_options()
    )
    return redis.asyncio.Redis.from_pool(pool)
