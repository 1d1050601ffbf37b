"""Workers whose memory has room for some pictures only: each claims what it can draw, and holds up nothing else."""

import itertools
import json
from typing import Any

import pytest

from jobs.room import Room
from jobs.spec import JobInput
from jobs.store.client import ClientStore
from jobs.store.worker import WorkerStore
from support.rooms import CARD, card, room

SMALL, LARGE = room(128, 128), room(512, 256)


class Queue:
    """Both sides of a store; jobs are claimed by workers of some room."""

    def __init__(self, client: ClientStore, worker: WorkerStore) -> None:
        self.client, self.worker = client, worker
        self._numbers = itertools.count()

    async def submit(self, job_id: str, side: int, **fields: Any) -> None:
        job_input = JobInput(prompt="a cat", seed=1, width=side, height=side, **fields)
        await self.client.submit(job_id, "someone", job_input, idempotency_key=None, digest=job_id)

    def claims(self, room: Room | None) -> list[str]:
        """Claim all that a worker of this room is given."""
        claims = []
        while claim := self.worker.claim("worker", next(self._numbers), alone=True, room=room):
            claims.append(claim.job.id)
        return claims


@pytest.fixture
def queue(sides: Any) -> Queue:
    return Queue(sides.client, sides.worker)


async def test_each_worker_claims_what_it_has_room_for(queue: Queue) -> None:
    await queue.submit("large", 512)
    await queue.submit("several", 128, num_images=2)
    await queue.submit("too many", 128, num_images=3)
    await queue.submit("guided", 128, guidance_scale=2.0)
    await queue.submit("small", 64, guidance_scale=2.0)
    assert queue.claims(SMALL) == ["several", "small"]
    assert queue.claims(LARGE) == ["large", "guided"]
    assert queue.claims(None) == ["too many"]


async def test_a_step_cache_takes_room(queue: Queue) -> None:
    await queue.submit("cached", 128, step_cache="fast")
    able = frozenset({"step_cache"})
    assert queue.worker.claim("worker", 0, alone=True, abilities=able, room=SMALL) is None
    assert queue.worker.claim("worker", 0, alone=True, abilities=able, room=LARGE)


async def test_jobs_without_room_are_not_looked_at_again_and_hold_up_nobody(queue: Queue, sides: Any) -> None:
    for n in range(120):
        await queue.submit(f"large-{n}", 512)

    def looks() -> int:
        before = sides.redis.info("commandstats")["cmdstat_hmget"]["calls"]
        assert queue.claims(SMALL) == []
        after: int = sides.redis.info("commandstats")["cmdstat_hmget"]["calls"]
        return after - before

    assert looks() > 120
    assert looks() < 10
    await queue.submit("small", 64)
    assert queue.claims(SMALL) == ["small"]
    await queue.submit("high", 64, priority="high")
    assert queue.claims(SMALL) == ["high"]
    assert len(queue.claims(LARGE)) == 120


async def test_the_workers_alive_tell_their_room_and_the_last_one_where_none_is(queue: Queue, sides: Any) -> None:
    assert await queue.client.served() == (None, [])
    queue.worker.heartbeat("a", card(128, 128), 1.0, [])
    queue.worker.heartbeat("b", card(512, 256), 1.0, [])
    queue.worker.heartbeat("c", card(512, 256), 1.0, [])
    last, rooms = await queue.client.served()
    assert last == card(512, 256)
    assert sorted(rooms, key=str) == sorted([SMALL, LARGE], key=str)

    queue.worker.heartbeat("roomy", card(), 1.0, [])
    assert await queue.client.served() == (card(), [])

    for worker in ("roomy", "b", "c"):
        queue.worker.depart(worker)
    assert (await queue.client.served())[1] == [SMALL]
    queue.worker.depart("a")
    queue.worker.heartbeat("d", card(512, 256), 1.0, [])
    queue.worker.depart("d")
    assert await queue.client.served() == (card(512, 256), [LARGE])


async def test_a_worker_of_an_earlier_release_has_room_for_all(queue: Queue, sides: Any) -> None:
    queue.worker.heartbeat("new", card(128, 128), 1.0, [])
    queue.worker.heartbeat("old", CARD, 1.0, [])
    prefix = sides.settings.redis_prefix
    sides.redis.hdel(f"{prefix}worker:old", "room")  # of which it knows nothing
    assert (await queue.client.served())[1] == []
    await queue.submit("large", 512)
    record = sides.redis.hgetall(f"{prefix}job:large")
    assert (record["schema"], "needs" in record, json.loads(record["input"])["width"]) == ("1", False, 512)
