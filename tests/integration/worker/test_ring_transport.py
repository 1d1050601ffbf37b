"""A worker hears rings of the doorbell; whatever else lies on the queue is dropped and counted, and it goes on."""

import base64
import json
import os
import pickle
import secrets
import signal
import threading
import time
import zlib
from typing import Any

import pytest
import redis
from prometheus_client import REGISTRY

from cli.stack import Stack
from jobs.doorbell import TASK, celery_app, messages_key, ring
from jobs.settings import Settings
from support.redis_keys import remove_keys
from worker.celery_worker import hear_the_bell


class Draining(threading.Event):
    """Counts how often Celery ended."""

    ends = 0

    def wait(self, timeout: float | None = None) -> bool:  # noqa: ARG002 - as in the base class
        self.ends += 1
        self.set()
        return True


def changed(message: dict[str, Any], **parts: Any) -> bytes:
    """A message with other values, given by their paths (`headers__task`)."""
    copy: dict[str, Any] = json.loads(json.dumps(message))
    for path, value in parts.items():
        *above, last = path.replace("content_", "content-").split("__")
        place = copy
        for name in above:
            place = place[name]
        place[last] = value
    return json.dumps(copy).encode()


def encoded(body: object) -> str:
    return base64.b64encode(json.dumps(body).encode()).decode()


def garbage(good: dict[str, Any]) -> list[bytes]:
    bomb = base64.b64encode(zlib.compress(b"x" * 50_000_000)).decode()
    pickled = base64.b64encode(pickle.dumps([[], {}, {}])).decode()
    return [
        *(b"not JSON", b"", b"\xff\xfe\x00", b"null", b"7", b'"text"', b"[]", b"{}", b"NaN", b"9" * 5000),
        b"[" * 100_000,
        b'{"properties":' * 50_000,
        b'{"__type__": "datetime", "__value__": "never"}',
        b'{"__type__": "decimal", "__value__": {"__type__": "uuid"}}',
        json.dumps({**good, "body": "x" * 5_000_000}).encode(),
        changed(good, headers__task="another.task"),
        changed(good, headers__task=["a", "list"]),
        changed(good, headers={}),
        changed(good, headers=None),
        changed(good, headers=[TASK]),
        changed(good, properties=None),
        changed(good, properties__body_encoding="rot13"),
        changed(good, body=None),
        changed(good, body=7),
        changed(good, body="é"),
        changed(good, body=encoded(None)),
        changed(good, body=encoded([["an argument"], {}, {}])),
        changed(good, body=encoded([[], {"an": "option"}, {}])),
        changed(good, body=encoded([[], {}])),
        changed(good, body=encoded({"task": TASK, "id": "1", "args": [], "kwargs": {}})),
        changed(good, body=pickled, content_type="application/x-python-serialize", content_encoding="binary"),
        changed(good, content_type="text/plain"),
        changed(good, content_encoding="utf-7"),
        changed(good, body=bomb, headers__compression="application/x-gzip"),
        changed(good, headers__compression="no such thing"),
    ]


def rings(good: dict[str, Any]) -> list[bytes]:
    """Rings that say more than a ring needs to: none of it is followed."""
    other = {"task": "another.task", "args": [], "kwargs": {}, "options": {}}
    return [
        json.dumps(good).encode(),
        changed(good, body=encoded([[], {}, {"callbacks": [other], "errbacks": [other], "chain": [other]}])),
        changed(good, headers__eta="2999-01-01T00:00:00+00:00"),
        changed(good, headers__expires="not a date"),
        changed(good, headers__id=None, properties__delivery_tag={"no": "tag"}),
        changed(good, properties__delivery_info=None, properties__priority="high"),
    ]


@pytest.mark.usefixtures("handlers")
def test_what_is_no_ring_is_dropped_and_counted_and_rings_go_on_being_heard(servers: Stack) -> None:
    settings = Settings(redis_url=servers.redis_url, redis_prefix=f"rings-{secrets.token_hex(4)}:", worker_slots=1)
    queue, draining = messages_key(settings), Draining()
    kept = f"{settings.redis_prefix}celery:unacked"
    with redis.Redis.from_url(servers.redis_url) as client:
        ring(celery_app(settings))
        good = json.loads(client.rpop(queue) or b"")
        bad, heard = garbage(good), []
        for index, message in enumerate(bad):  # what is pushed first is heard first
            client.lpush(queue, message, rings(good)[index % len(rings(good))])
        for tag, left in (("a", b"not JSON"), ("b", b"[]"), ("c", b"[1, 2, 3]"), ("d", b"{}")):
            client.hset(kept, tag, left)
            client.zadd(f"{kept}_index", {tag: 1})

        def hear() -> bool:
            heard.append(time.monotonic())
            if len(heard) == len(bad):
                draining.set()
                os.kill(os.getpid(), signal.SIGTERM)
            return False

        before = REGISTRY.get_sample_value("zimage_doorbell_dropped_total") or 0
        hear_the_bell(settings, hear, draining, "worker")
        assert draining.ends == 1  # at the signal
        assert len(heard) == len(bad)
        assert REGISTRY.get_sample_value("zimage_doorbell_dropped_total") == before + len(bad) + 3
        assert client.llen(queue) == client.hlen(kept) == client.zcard(f"{kept}_index") == 0
        remove_keys(client, settings.redis_prefix)
    assert TASK not in celery_app(settings).tasks  # another worker of this process does its own work
