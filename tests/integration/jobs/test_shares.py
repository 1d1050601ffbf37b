"""Keys share the workers: each gets its part, however much one has queued, and its own jobs keep their order."""

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import redis
import redis.asyncio

from jobs.limits import NEW_KEY, NO_LIMITS, Limits
from jobs.model_card import ModelCard
from jobs.settings import Settings
from jobs.spec import JobInput
from jobs.store.answers import Submitted
from jobs.store.client import ClientStore
from jobs.store.worker import Claim, WorkerStore

CARD = ModelCard(name="tiny", min_size=64, max_size=1024, precision="float32", load_seconds=7.0)
COST = 64 * 64 * 8  # of each job, and what a worker is told to do in a second


@dataclass
class Queue:
    """Both sides of one service's store; `drawn` are the jobs that were claimed, in that order."""

    settings: Settings
    client: ClientStore
    worker: WorkerStore
    redis: redis.Redis
    drawn: list[str] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=itertools.count)

    async def submit(self, owner: str, limits: Limits = NO_LIMITS, **fields: Any) -> Submitted:
        job_input = JobInput(prompt="a cat", seed=1, **{"width": 64, "height": 64, **fields})
        job_id = f"{owner}_{next(self.numbers)}"
        return await self.client.submit(job_id, owner, job_input, idempotency_key=None, digest="", limits=limits)

    def claim(self) -> Claim | None:
        claim = self.worker.claim("worker-1", next(self.numbers), alone=True)
        if claim:
            self.drawn.append(claim.job.owner)
        return claim

    def draw(self, count: int) -> list[str]:
        """Draw so many jobs; return whose they were."""
        for _ in range(count):
            claim = self.claim()
            assert claim is not None
            self.worker.commit(claim, [], {}, 0, [])
        return self.drawn[-count:]

    def let_pass(self, seconds: float) -> None:
        """Let all that waits have come so much earlier."""
        prefix, earlier = self.settings.redis_prefix, -int(seconds * 1e6)
        for job_id in self.redis.zrange(f"{prefix}pending", 0, -1):
            self.redis.zincrby(f"{prefix}pending", earlier, job_id)
        for owner in self.redis.hkeys(f"{prefix}clocks"):
            self.redis.hincrby(f"{prefix}clocks", owner, earlier)
        self.redis.incrby(f"{prefix}place", earlier)

    def measured(self, rate: float) -> None:
        self.worker.heartbeat("worker-1", CARD, rate, [])


@pytest.fixture
def queue(sides: Any) -> Queue:
    return Queue(*sides)


@pytest.mark.parametrize("rate", [None, COST, COST * 3, COST / 3, 1e12, 1e-3])
async def test_one_job_at_a_time_waits_for_no_queue(queue: Queue, rate: float | None) -> None:
    """However wrong the rate is by which turns are spaced."""
    if rate:
        queue.measured(rate)
    for _ in range(500):
        await queue.submit("alice")
    for _ in range(20):
        queue.draw(1)
        await queue.submit("bob")
        assert "bob" in queue.draw(2)  # at most one of alice's goes before


async def test_a_rate_that_changes_meanwhile_changes_no_share(queue: Queue) -> None:
    queue.measured(COST)
    for _ in range(100):
        await queue.submit("alice")
    queue.measured(COST * 20)  # more workers
    for _ in range(100):
        await queue.submit("bob")
    assert Counter(queue.draw(40)) == {"alice": 20, "bob": 20}


@pytest.mark.parametrize("rate", [None, COST * 3, COST / 3])
async def test_work_is_shared_by_weight(queue: Queue, rate: float | None) -> None:
    if rate:
        queue.measured(rate)
    for _ in range(220):
        await queue.submit("alice", Limits(share=1, weight=1))
    for _ in range(220):
        await queue.submit("bob", Limits(share=1, weight=3))
    drawn = Counter(queue.draw(200))
    assert 45 <= drawn["alice"] <= 55


async def test_a_queue_that_stood_still_is_shared_like_any_other(queue: Queue) -> None:
    for _ in range(100):
        await queue.submit("alice")
    queue.draw(5)
    queue.let_pass(300)  # the workers are away
    for _ in range(100):
        await queue.submit("bob")
    assert Counter(queue.draw(40)) == {"alice": 20, "bob": 20}


async def test_work_counts_and_not_jobs(queue: Queue) -> None:
    for _ in range(40):
        await queue.submit("alice", num_images=4)
        await queue.submit("bob")
    drawn = Counter(queue.draw(40))
    assert 7 <= drawn["alice"] <= 9  # four images each, as many as bob's


async def test_who_was_idle_has_saved_nothing_up_and_owes_nothing(queue: Queue) -> None:
    for _ in range(50):
        await queue.submit("alice")
    queue.draw(50)
    for _ in range(50):
        await queue.submit("bob")
    queue.draw(10)
    for _ in range(50):
        await queue.submit("alice")
    assert Counter(queue.draw(40)) == {"alice": 20, "bob": 20}


async def test_what_was_canceled_is_not_charged(queue: Queue) -> None:
    for _ in range(100):
        await queue.submit("alice")
    canceled = [(await queue.submit("bob")).job_id for _ in range(100)]
    for job_id in canceled:
        assert job_id
        await queue.client.cancel(job_id, "bob")
    await queue.submit("bob")
    assert "bob" in queue.draw(2)


async def test_what_a_worker_hands_back_is_charged_once(queue: Queue) -> None:
    for _ in range(100):
        await queue.submit("alice")
        await queue.submit("bob")
    for _ in range(30):
        claim = queue.claim()
        assert claim
        if claim.job.owner == "alice":
            queue.worker.requeue(claim)
        else:
            queue.worker.commit(claim, [], {}, 0, [])
        queue.draw(1)
    drawn = Counter(queue.draw(40))
    assert 19 <= drawn["alice"] <= 21


async def test_what_is_handed_back_to_an_empty_queue_gives_no_credit(queue: Queue) -> None:
    await queue.submit("alice")
    claim = queue.claim()
    assert claim
    for _ in range(20):
        await queue.submit("bob")
    queue.worker.requeue(claim)
    for _ in range(20):
        await queue.submit("alice")
    assert 10 <= Counter(queue.draw(20))["alice"] <= 11


async def test_priorities_order_a_keys_own_jobs_however_many_wait(queue: Queue) -> None:
    expected = []
    for n in range(250):
        priority = ("normal", "low", "normal", "high")[n % 4]
        expected.append(
            ({"high": 0, "normal": 1, "low": 2}[priority], (await queue.submit("alice", priority=priority)))
        )
        if n % 2:
            await queue.submit("bob")
    order = [submitted.job_id for _, submitted in sorted(expected, key=lambda each: each[0])]
    claims = [queue.claim() for _ in range(375)]
    assert [claim.job.id for claim in claims if claim and claim.job.owner == "alice"] == order


@pytest.mark.parametrize("overrides", [{"priority_seconds": 1}])
async def test_high_jobs_of_one_key_starve_no_other(queue: Queue) -> None:
    queue.measured(COST)
    for _ in range(100):
        await queue.submit("alice", priority="high")
        await queue.submit("bob", priority="low")
    drawn = Counter(queue.draw(40))
    assert 18 <= drawn["bob"] <= 20  # but for the two seconds that alice's go before


async def test_high_jobs_of_one_key_go_before_others_once_and_hold_up_nobody_who_comes_later(queue: Queue) -> None:
    queue.measured(COST)
    for _ in range(150):
        await queue.submit("alice")
        await queue.submit("bob", priority="high")
    assert set(queue.draw(60)) == {"bob"}  # ZIMAGE_PRIORITY_SECONDS of work
    queue.draw(40)
    for _ in range(5):
        assert (await queue.submit("carol")).job_id
        assert "carol" in queue.draw(3)
        queue.draw(10)  # while she is away


async def test_a_position_is_that_in_which_it_will_be_drawn(queue: Queue) -> None:
    for _ in range(30):
        await queue.submit("alice")
    for priority in ("low", "normal", "high") * 5:
        await queue.submit("bob", Limits(weight=2, share=1), priority=priority)
    jobs = [*(await queue.client.list("alice", status=None, limit=100, cursor=None))[0]]
    jobs += (await queue.client.list("bob", status=None, limit=100, cursor=None))[0]
    places = {found.place.position: found.job.id for found in jobs if found.place}
    claims = [queue.claim() for _ in range(45)]
    assert [claim.job.id for claim in claims if claim] == [places[n] for n in range(1, 46)]


@pytest.mark.parametrize("overrides", [{"queue_limit": 20}])
async def test_a_key_alone_fills_its_share_and_others_find_room(queue: Queue) -> None:
    alice = [(await queue.submit("alice", NEW_KEY)).outcome for _ in range(12)]
    assert alice == ["created"] * 10 + ["over_share"] * 2
    bob = [(await queue.submit("bob", NEW_KEY)).outcome for _ in range(7)]
    assert bob == ["created"] * 5 + ["over_share"] * 2
    assert (await queue.submit("carol", NEW_KEY)).outcome == "created"
    queue.draw(12)
    assert (await queue.submit("alice", NEW_KEY)).outcome == "created"


@pytest.mark.parametrize("overrides", [{"queue_limit": 20}])
@pytest.mark.parametrize(("share", "jobs"), [(0.25, 5), (0.75, 15), (1, 20), (0.01, 1)])
async def test_a_share_is_of_the_queue(queue: Queue, share: float, jobs: int) -> None:
    outcomes = [(await queue.submit("alice", Limits(share=share))).outcome for _ in range(21)]
    assert outcomes.count("created") == jobs
    assert outcomes[-1] == ("full" if share == 1 else "over_share")


async def test_work_a_minute_is_limited_and_a_job_that_is_larger_is_taken_alone(queue: Queue) -> None:
    limits = Limits(work=COST * 4)
    outcomes = [(await queue.submit("alice", limits)).outcome for _ in range(5)]
    assert outcomes == ["created"] * 4 + ["too_much"]
    refused = await queue.submit("alice", limits)
    assert refused.retry_seconds == pytest.approx(15, abs=1)
    assert (await queue.submit("bob", limits, num_images=8)).outcome == "created"
    assert (await queue.submit("bob", limits)).outcome == "too_much"
