"""Both sides of a store of its own, for tests that need no process of the service."""

import secrets
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest
import redis

from cli.stack import Stack
from jobs.settings import Settings
from jobs.store.client import ClientStore
from jobs.store.redis_client import connect, connect_async
from jobs.store.worker import WorkerStore
from support.redis_keys import remove_keys


class Sides(NamedTuple):
    """A store under a prefix of its own, as a client and as a worker see it."""

    settings: Settings
    client: ClientStore
    worker: WorkerStore
    redis: redis.Redis


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def overrides() -> dict[str, Any]:
    return {}


@pytest.fixture
async def sides(servers: Stack, overrides: dict[str, Any]) -> AsyncIterator[Sides]:
    settings = Settings(redis_url=servers.redis_url, redis_prefix=f"test-{secrets.token_hex(4)}:", **overrides)
    blocking, asynchronous = connect(settings), connect_async(settings)
    yield Sides(settings, ClientStore(asynchronous, settings), WorkerStore(blocking, settings), blocking)
    remove_keys(blocking, settings.redis_prefix)
    blocking.close()
    await asynchronous.aclose()
