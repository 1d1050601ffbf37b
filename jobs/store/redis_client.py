"""Connections to Redis, set up so that a dead or half-open one is noticed within seconds."""

import asyncio
from types import ModuleType
from typing import Any

import redis
import redis.asyncio
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry

from jobs.addresses.redis_url import RedisAddress
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


def _options(address: RedisAddress, connections: ModuleType) -> dict[str, Any]:
    """How a pool connects, with the classes of redis-py's module of blocking or of asyncio's connections."""
    common = {
        **SOCKET_OPTIONS,
        "decode_responses": True,
        "db": address.database,
        "username": address.username,
        "password": address.password,
    }
    if address.socket:
        del common["socket_keepalive"]  # which is TCP's
        return {**common, "connection_class": connections.UnixDomainSocketConnection, "path": address.socket}
    tcp = {**common, "host": address.host, "port": address.port}
    if address.tls is None:
        return tcp
    return {**tcp, **address.tls, "connection_class": connections.SSLConnection}


def connect(settings: Settings) -> redis.Redis:
    """Return a blocking client; it connects at its first command."""
    retry = Retry(ExponentialWithJitterBackoff(base=0.05, cap=0.5), RETRIES)
    pool = redis.ConnectionPool(retry=retry, **_options(settings.redis_url, redis.connection))
    return redis.Redis.from_pool(pool)


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
    options = _options(settings.redis_url, redis.asyncio.connection)
    pool = redis.asyncio.BlockingConnectionPool(max_connections=CONNECTIONS, timeout=None, retry=retry, **options)
    return _Bounded.from_pool(pool)
