"""Whoever waits for a job's changes is woken, whatever happens to the one subscription."""

import asyncio
import contextlib
import os
import secrets
import signal
from collections.abc import AsyncIterator

import pytest
import redis.asyncio

from api.background import end
from cli.stack import Stack
from jobs import events
from jobs.events import EventHub
from jobs.settings import Settings
from jobs.store.redis_client import connect_async

PATIENCE = 30


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def settings(servers: Stack) -> Settings:
    return Settings(redis_url=servers.redis_url, redis_prefix=f"test-{secrets.token_hex(4)}:")


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[redis.asyncio.Redis]:
    async with connect_async(settings) as client:
        yield client


@contextlib.asynccontextmanager
async def listening(client: redis.asyncio.Redis, settings: Settings) -> AsyncIterator[EventHub]:
    hub = EventHub(client, settings)
    task = asyncio.create_task(hub.run())
    try:
        async with hub.watch("job_0") as subscribed:
            await woken(subscribed)
        yield hub
    finally:
        await end([task])


async def woken(changed: asyncio.Event) -> None:
    async with asyncio.timeout(PATIENCE):
        await changed.wait()


async def test_a_change_wakes_those_who_wait_for_its_job(client: redis.asyncio.Redis, settings: Settings) -> None:
    async with listening(client, settings) as hub, hub.watch("job_1") as one, hub.watch("job_2") as other:
        await client.publish(f"{settings.redis_prefix}events", "job_1 2 running")
        await woken(one)
        assert not other.is_set()


async def test_all_are_woken_when_the_connection_was_lost(client: redis.asyncio.Redis, settings: Settings) -> None:
    async with listening(client, settings) as hub, hub.watch("job_1") as changed:
        await client.client_kill_filter(_type="pubsub")
        await woken(changed)


async def test_all_are_woken_when_redis_was_silent(
    client: redis.asyncio.Redis, settings: Settings, servers: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "SILENCE_SECONDS", 0.1)
    monkeypatch.setattr(events, "ANSWER_SECONDS", 0.1)
    async with listening(client, settings) as hub, hub.watch("job_1") as changed:
        valkey = servers.pids()["valkey"]
        os.kill(valkey, signal.SIGSTOP)
        await asyncio.sleep(1)
        os.kill(valkey, signal.SIGCONT)
        await woken(changed)
