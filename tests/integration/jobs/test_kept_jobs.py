"""What is kept of a key's jobs: bounded, so that no key fills Redis, and given back with them."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from cli.stack import Stack
from jobs.limits import Limits
from jobs.spec import JobInput
from jobs.store.answers import JobGoneError, JobUnknownError
from jobs.store.client import ClientStore
from jobs.store.webhooks import Outbox
from jobs.store.worker import UNDRAWN_TTL

ROOM = 12_000_000  # bytes of Redis for jobs
LARGE = JobInput(
    prompt="\N{GRINNING FACE}" * 2000,
    negative_prompt="\N{GRINNING FACE}" * 2000,
    seed=1,
    webhook_url="https://example.com/" + "x" * 2000,
)
KEY = Limits()
numbers = itertools.count()


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Stack]:
    """A Valkey of its own, whose memory is nearly full."""
    with Stack(tmp_path, services=False) as stack, redis.Redis.from_url(stack.redis_url) as client:
        client.config_set("maxmemory", client.info("memory")["used_memory"] + ROOM)
        yield stack


async def submit(store: ClientStore, owner: str, limits: Limits = KEY, idempotency_key: str | None = None) -> str:
    """Submit a large job; return the outcome, or the job's id where there is one."""
    job_id = f"job_{next(numbers)}"
    submitted = await store.submit(
        job_id, owner, LARGE, idempotency_key=idempotency_key, digest="digest", limits=limits
    )
    return submitted.job_id or submitted.outcome


async def fill(store: ClientStore, owner: str) -> list[str]:
    """Submit and cancel until no more is taken; return the ids."""
    ids = []
    while (job_id := await submit(store, owner)) != "over_memory":
        assert job_id.startswith("job_"), job_id
        await store.cancel(job_id, owner)
        ids.append(job_id)
    return ids


async def test_a_key_that_submits_and_cancels_for_ever_fills_its_share_of_memory_only(sides: Any) -> None:
    before = sides.redis.info("memory")["used_memory"]
    kept = await fill(sides.client, "alice")
    assert len(kept) > 100
    assert 0.25 < (sides.redis.info("memory")["used_memory"] - before) / ROOM < 0.6

    for other in ("bob", "carol", "dave", "eve"):  # each has its share of what is left
        assert len(await fill(sides.client, other)) > 10
    assert (await submit(sides.client, "frank")).startswith("job_")
    assert (await submit(sides.client, "alice", Limits(share=1))).startswith("job_")

    for job_id in kept:
        await sides.client.delete(job_id, "alice")
    assert await submit(sides.client, "alice") == "over_memory", "their webhooks are still to be told"
    outbox = Outbox(sides.client._redis, sides.settings)
    while delivery := await outbox.claim(["bob", "carol", "dave", "eve", "frank"]):
        await outbox.give_up(delivery, "nobody is there")
    assert await submit(sides.client, "alice") == "over_memory", "they are kept for an operator"
    dead = f"{sides.settings.redis_prefix}webhooks:dead"
    for event in sides.redis.zrange(dead, 0, -1):
        sides.redis.zadd(dead, {event: 1})
    while sides.redis.exists(dead):
        sides.worker.retire()
    assert (await submit(sides.client, "alice")).startswith("job_")


async def test_what_is_left_of_deleted_jobs_is_bounded(sides: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    script = sides.client._scripts["delete"]
    assert "MOST_TOMBSTONES = 10000" in script.script
    monkeypatch.setitem(
        sides.client._scripts, "delete", script.registered_client.register_script(script.script.replace("10000", "3"))
    )
    ids = []
    for number in range(5):
        ids.append(await submit(sides.client, "alice", idempotency_key=f"key-{number}"))
        await sides.client.cancel(ids[-1], "alice")
        await sides.client.delete(ids[-1], "alice")
    for number, (job_id, told) in enumerate(zip(ids, [JobUnknownError] * 2 + [JobGoneError] * 3, strict=True)):
        with pytest.raises(told):
            await sides.client.get(job_id, "alice")
        assert await sides.client.has_seen("alice", f"key-{number}") == (told is JobGoneError)
    assert len(list(sides.redis.scan_iter(f"{sides.settings.redis_prefix}tombstone:*"))) == 3


async def test_a_job_that_was_never_drawn_is_kept_for_a_day(sides: Any) -> None:
    canceled, waiting, drawn = [await submit(sides.client, "alice") for _ in range(3)]
    await sides.client.cancel(canceled, "alice")
    await sides.client.cancel(drawn, "alice")
    assert sides.worker.retire() == []
    sides.redis.zincrby(f"{sides.settings.redis_prefix}undrawn", -UNDRAWN_TTL * 1_000_000, canceled)
    assert sides.worker.retire() == [canceled]
    assert sides.worker.retire() == [], "it is being removed"
    sides.worker.delete(canceled)
    with pytest.raises(JobGoneError):
        await sides.client.get(canceled, "alice")
    assert (await sides.client.get(waiting, "alice")).place
