"""What owners have and have had, as the store counts it; the state machine holds it to be right after any calls."""

import itertools
import math
from typing import Any

import pytest

from jobs.spec import JobInput

ASKED = JobInput(prompt="a cat", seed=1, width=64, height=64)
numbers = itertools.count()


async def submit(sides: Any) -> str:
    job_id = f"job_{next(numbers)}"
    await sides.client.submit(job_id, "alice", ASKED, idempotency_key=None, digest="digest")
    return job_id


@pytest.mark.parametrize(("seconds", "bound"), [(2, 5), (40, 60), (15_000, math.inf)])
async def test_a_wait_is_counted_among_those_that_took_as_long(sides: Any, seconds: int, bound: float) -> None:
    job_id = await submit(sides)
    sides.redis.hincrby(f"{sides.settings.redis_prefix}job:{job_id}", "queued_at", -seconds * 1_000_000)
    claim = sides.worker.claim("worker-1", 1, alone=True)
    used = (await sides.client.usage(["alice", "bob"]))["alice"]
    assert {seconds: count for seconds, count in used.waits.items() if count} == {bound: 1}
    assert used.waited_seconds == pytest.approx(claim.job.timings["queue"], abs=1e-6)


async def test_jobs_that_went_by_a_release_that_does_not_count_are_made_up_for(sides: Any) -> None:
    prefix = sides.settings.redis_prefix
    old, new = await submit(sides), await submit(sides)
    sides.redis.hdel(f"{prefix}job:{old}", "turn")  # as such a release accepts it, which counts nothing either
    sides.redis.hset(f"{prefix}queued_work", "alice", ASKED.cost)
    sides.redis.hdel(f"{prefix}kept", "alice")
    used = (await sides.client.usage(["alice"]))["alice"]
    assert (used.queued, used.queued_work) == (2, ASKED.cost)
    for job_id in (old, new):
        await sides.client.cancel(job_id, "alice")
    sides.redis.hincrby(f"{prefix}queued_work", "alice", 12345)  # of jobs that such workers have claimed
    assert (await sides.client.usage(["alice"]))["alice"].queued_work == 0
    await submit(sides)
    assert (await sides.client.usage(["alice"]))["alice"].queued_work == ASKED.cost


async def test_what_an_owner_has_had_is_forgotten_in_the_end(sides: Any) -> None:
    await sides.client.cancel(await submit(sides), "alice")
    assert 29 < sides.redis.ttl(f"{sides.settings.redis_prefix}usage:alice") / 86_400 <= 30
    assert await sides.client.usage(["bob"]) == await sides.client.usage([])
