"""A Redis whose memory stays full makes Celery give up again and again: that costs the worker nothing that lasts."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from cli.stack import Stack
from jobs.doorbell import celery_app, ring
from jobs.settings import Settings
from worker.celery_worker import hear_the_bell

ROUNDS = 4


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[redis.Redis]:
    """A server of its own: others need the memory."""
    with Stack(tmp_path, services=False) as stack, redis.Redis.from_url(stack.redis_url) as client:
        yield client


class StopAfterRounds(threading.Event):
    """Is set when Celery has given up often enough; notes how many connections there were each time."""

    def __init__(self, client: redis.Redis) -> None:
        super().__init__()
        self._client = client
        self.connections: list[int] = []

    def wait(self, timeout: float | None = None) -> bool:  # noqa: ARG002 - as in the base class
        self.connections.append(int(self._client.info("clients")["connected_clients"]))
        if len(self.connections) == ROUNDS:
            self.set()
        return self.is_set()


def find_no_work() -> bool:
    """What a worker does at a ring."""
    return False


@pytest.mark.usefixtures("handlers")
def test_celery_leaves_no_connection_behind(valkey: redis.Redis) -> None:
    server = valkey.get_connection_kwargs()
    settings = Settings(redis_url=f"redis://:{server['password']}@127.0.0.1:{server['port']}/0")
    ring(celery_app(settings))
    valkey.config_set("maxmemory", 100_000)
    rounds = StopAfterRounds(valkey)
    hear_the_bell(settings, find_no_work, rounds, "worker")
    assert len(set(rounds.connections)) == 1, rounds.connections
