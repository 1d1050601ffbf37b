"""The job's life in Redis: every transition, in a real Valkey, without API or worker."""

import asyncio
import itertools
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import redis
import redis.asyncio

from cli.stack import Stack
from jobs.doorbell import celery_app, messages_key
from jobs.model_card import ModelCard
from jobs.objects.images import ImageStore
from jobs.reaper import Reaper
from jobs.record import ERROR_CODES, SCHEMA_VERSION, ImageRecord, Job, JobError, JobStatus
from jobs.settings import Settings
from jobs.spec import ABILITIES, JobInput
from jobs.step_cache import StepCacheParameters
from jobs.store.answers import BadCursorError, JobGoneError, JobUnknownError, Submitted
from jobs.store.client import ClientStore
from jobs.store.worker import AloneError, Claim, WorkerStore
from support.demanding import demanding
from support.s3_access import s3_keys

CARD = ModelCard(name="tiny", min_size=64, max_size=1024, precision="float32", load_seconds=7.0)
OWNER = "someone"
IMAGE = ImageRecord(index=0, seed=1, width=64, height=64, bytes=3, sha256="00", key="jobs/x/1/0.png")


@dataclass
class Queue:
    """Both sides of one service's store, under a prefix of its own."""

    settings: Settings
    client: ClientStore
    worker: WorkerStore
    redis: redis.Redis
    claims: Iterator[int] = field(default_factory=itertools.count)

    async def submit(self, job_id: str, *needs: str, **fields: Any) -> Submitted:
        options = {key: fields.pop(key) for key in ("idempotency_key", "digest") if key in fields}
        plain = JobInput(prompt="a cat", seed=1, **{"width": 64, "height": 64, **fields})
        job_input = demanding(*needs, **fields) if needs else plain
        return await self.client.submit(
            job_id, OWNER, job_input, **{"idempotency_key": None, "digest": "digest", **options}
        )

    async def job(self, job_id: str) -> Job:
        return (await self.client.get(job_id, OWNER)).job

    def claim(self, worker: str = "worker-1", alone: bool = True, able: Iterable[str] = ()) -> Claim:
        claim = self.try_claim(worker, alone, able)
        assert claim is not None
        return claim

    def try_claim(self, worker: str = "worker-1", alone: bool = True, able: Iterable[str] = ()) -> Claim | None:
        return self.worker.claim(worker, next(self.claims), alone=alone, abilities=frozenset(able))

    def record(self, job_id: str) -> dict[str, str]:
        return self.redis.hgetall(f"{self.settings.redis_prefix}job:{job_id}")

    def commit(self, claim: Claim) -> str:
        return self.worker.commit(claim, [IMAGE], {"denoise": 0.5}, 0, [])

    def end_leases(self) -> None:
        """Let every lease be over, as if its time had passed."""
        self._let_pass("running")

    def end_retention(self) -> None:
        """Let every ended job be old, as if its time had passed."""
        self._let_pass("ended")

    def _let_pass(self, times: str) -> None:
        key = f"{self.settings.redis_prefix}{times}"
        for job_id in self.redis.zrange(key, 0, -1):
            self.redis.zadd(key, {job_id: 1})


@pytest.fixture
def queue(sides: Any) -> Queue:
    return Queue(*sides)


async def test_however_many_ask_at_once_each_is_answered_over_few_connections(queue: Queue) -> None:
    await queue.submit("job_1")
    found = await asyncio.gather(*(queue.client.get("job_1", OWNER) for _ in range(300)))
    assert {each.job.id for each in found} == {"job_1"}
    assert len(queue.redis.client_list()) < 100


async def test_a_job_goes_from_queued_to_succeeded(queue: Queue) -> None:
    await queue.submit("job_1")
    queued = await queue.client.get("job_1", OWNER)
    assert queued.job.status == JobStatus.QUEUED
    assert queued.place is not None
    assert queued.place.position == 1

    claim = queue.claim()
    assert (claim.job.id, claim.job.attempt) == ("job_1", 1)
    assert queue.worker.progress(claim, 3) == "ok"
    running = await queue.job("job_1")
    assert (running.status, running.step, running.worker) == (JobStatus.RUNNING, 3, "worker-1")

    assert queue.commit(claim) == "succeeded"
    ended = await queue.job("job_1")
    assert ended.status == JobStatus.SUCCEEDED
    assert ended.images == [IMAGE]
    assert ended.timings["denoise"] == 0.5
    assert ended.timings["total"] >= ended.timings["queue"] >= 0
    assert queue.try_claim("worker-1") is None


def _commit(queue: Queue, claim: Claim) -> None:
    time.sleep(0.002)
    queue.worker.commit(claim, [IMAGE], {"denoise": 0.001}, 0, [])


async def _succeeds(queue: Queue) -> None:
    _commit(queue, queue.claim())


async def _fails(queue: Queue) -> None:
    queue.worker.fail(queue.claim(), JobError(code="x", message="x", retryable=False), {"device_wait": 0.0})


async def _is_canceled_in_the_queue(queue: Queue) -> None:
    await queue.client.cancel("job_1", OWNER)


async def _is_canceled_at_work(queue: Queue) -> None:
    claim = queue.claim()
    await queue.client.cancel("job_1", OWNER)
    queue.worker.requeue(claim, {"device_wait": 0.0})


async def _expires(queue: Queue) -> None:
    queue.redis.zadd(f"{queue.settings.redis_prefix}deadlines", {"job_1": 1})
    queue.worker.expire()


async def _is_handed_back_and_succeeds(queue: Queue) -> None:
    queue.worker.requeue(queue.claim())
    _commit(queue, queue.claim())


async def _is_handed_back_and_canceled_in_the_queue(queue: Queue) -> None:
    queue.worker.requeue(queue.claim())
    await queue.client.cancel("job_1", OWNER)


async def _loses_its_workers(queue: Queue) -> None:
    for _ in range(3):
        queue.claim()
        queue.end_leases()
        queue.worker.reap()


async def _is_held_through_an_outage(queue: Queue) -> None:
    claim = queue.claim()
    queue.end_leases()
    queue.worker.reap()
    _commit(queue, claim)


@pytest.mark.parametrize(
    ("end", "parts"),
    [
        (_succeeds, ["queue", "denoise", "other"]),
        (_fails, ["queue", "device_wait", "other"]),
        (_is_canceled_in_the_queue, ["queue", "other"]),
        (_is_canceled_at_work, ["queue", "device_wait", "other"]),
        (_expires, ["queue", "other"]),
        (_is_handed_back_and_succeeds, ["queue", "lost", "denoise", "other"]),
        (_is_handed_back_and_canceled_in_the_queue, ["queue", "lost", "other"]),
        (_loses_its_workers, ["queue", "lost", "other"]),
        (_is_held_through_an_outage, ["queue", "denoise", "other"]),
    ],
)
async def test_timings_add_up_however_a_job_ends(
    queue: Queue, end: Callable[[Queue], Awaitable[None]], parts: list[str]
) -> None:
    await queue.submit("job_1")
    time.sleep(0.02)
    await end(queue)
    job = await queue.job("job_1")
    assert not job.status.active
    timings = job.timings
    assert list(timings) == [*parts, "total"]
    assert sum(timings[part] for part in parts) == pytest.approx(timings["total"], abs=1e-6)
    assert timings["queue"] >= 0.02


async def test_every_change_has_a_version_of_its_own(queue: Queue) -> None:
    await queue.submit("job_1")
    versions = [(await queue.job("job_1")).version]
    claim = queue.claim()
    versions.append((await queue.job("job_1")).version)
    queue.worker.progress(claim, 1)
    versions.append((await queue.job("job_1")).version)
    queue.commit(claim)
    versions.append((await queue.job("job_1")).version)
    assert versions == sorted(set(versions))


async def test_jobs_are_claimed_in_the_order_of_acceptance(queue: Queue) -> None:
    for n in range(20):
        await queue.submit(f"job_{n}")
    assert [queue.claim().job.id for _ in range(20)] == [f"job_{n}" for n in range(20)]


async def test_high_overtakes_and_low_yields(queue: Queue) -> None:
    for job_id, priority in [("a", "low"), ("b", "normal"), ("c", "low"), ("d", "high"), ("e", "normal")]:
        await queue.submit(job_id, priority=priority)
    assert [queue.claim().job.id for _ in range(5)] == ["d", "b", "e", "a", "c"]


@pytest.mark.parametrize("overrides", [{"priority_seconds": 1}])
async def test_a_low_job_does_not_starve(queue: Queue) -> None:
    await queue.submit("low", priority="low")
    await asyncio.sleep(2.1)  # a low job yields to high ones of the next 2 × ZIMAGE_PRIORITY_SECONDS only
    await queue.submit("high", priority="high")
    assert [queue.claim().job.id for _ in range(2)] == ["low", "high"]


@pytest.mark.parametrize("overrides", [{"queue_limit": 3}])
async def test_a_full_queue_refuses_and_keeps_what_it_has(queue: Queue) -> None:
    outcomes = [(await queue.submit(f"job_{n}")).outcome for n in range(5)]
    assert outcomes == ["created"] * 3 + ["full"] * 2
    queue.claim()
    assert (await queue.submit("job_5")).outcome == "created"


@pytest.mark.parametrize("overrides", [{"queue_limit": 3}])
async def test_a_full_queue_tells_how_fast_it_shrinks(queue: Queue) -> None:
    for n in range(3):
        await queue.submit(f"job_{n}", num_images=2)
    assert (await queue.submit("job_3")).retry_seconds is None
    for worker in ("worker-1", "worker-2"):
        queue.worker.heartbeat(worker, CARD, 64 * 64 * 8, [])
    assert (await queue.submit("job_3")).retry_seconds == 1.0


async def test_the_same_submit_sent_twice_is_one_job(queue: Queue) -> None:
    await queue.submit("job_1")
    assert (await queue.submit("job_1")).outcome == "created"  # the first answer was lost on its way
    assert len((await queue.client.list(OWNER, status=None, limit=10, cursor=None))[0]) == 1


async def test_an_idempotency_key_gives_one_job_also_to_simultaneous_requests(queue: Queue) -> None:
    answers = await asyncio.gather(*(queue.submit(f"job_{n}", idempotency_key="key") for n in range(10)))
    assert sorted(answer.outcome for answer in answers) == ["created"] + ["replayed"] * 9
    assert len({answer.job_id for answer in answers}) == 1
    assert (await queue.submit("job_x", idempotency_key="key", digest="another")).outcome == "mismatch"


async def test_a_lost_job_goes_to_another_worker_and_the_zombie_is_fenced_off(queue: Queue) -> None:
    await queue.submit("job_1")
    zombie = queue.claim("worker-1")
    queue.worker.reap()
    queue.end_leases()
    assert queue.worker.reap() == {"job_1": "queued"}

    second = queue.claim("worker-2")
    assert second.job.attempt == 2
    assert queue.worker.heartbeat("worker-1", CARD, None, [zombie]) == ["lost"]
    assert queue.worker.progress(zombie, 8) == "lost"
    assert queue.commit(zombie) == "refused"
    assert queue.worker.fail(zombie, JobError(code="x", message="x", retryable=False)) == "refused"
    assert queue.worker.requeue(zombie) == "refused"

    assert queue.commit(second) == "succeeded"
    assert queue.commit(zombie) == "refused"
    job = await queue.job("job_1")
    assert (job.attempt, job.losses, job.worker) == (2, 1, "worker-2")


async def test_a_result_held_through_an_outage_is_taken_while_nobody_else_has_the_job(queue: Queue) -> None:
    await queue.submit("job_1")
    claim = queue.claim()
    queue.worker.reap()
    queue.end_leases()
    queue.worker.reap()
    assert (await queue.job("job_1")).status == JobStatus.QUEUED
    assert queue.worker.heartbeat("worker-1", CARD, None, [claim]) == ["ok"]
    assert queue.commit(claim) == "succeeded"
    assert queue.try_claim("worker-2") is None


async def test_a_commit_sent_twice_is_answered_twice(queue: Queue) -> None:
    await queue.submit("job_1")
    claim = queue.claim()
    assert [queue.commit(claim), queue.commit(claim)] == ["succeeded", "succeeded"]
    assert (await queue.client.overview()).counts[JobStatus.SUCCEEDED] == 1


async def test_a_job_that_loses_three_workers_fails_and_is_a_dead_letter(
    queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    await queue.submit("poison")
    await queue.submit("neighbour")
    queue.worker.reap()
    for outcome in ("queued", "queued", "failed"):
        assert queue.claim().job.id == "poison"
        queue.end_leases()
        assert queue.worker.reap() == {"poison": outcome}
    job = await queue.job("poison")
    assert job.error is not None
    assert (job.error.code, job.error.retryable, job.attempt) == ("worker_lost", True, 3)
    assert queue.redis.zrange(f"{queue.settings.redis_prefix}dead", 0, -1) == ["poison"]
    turns = [(line.__dict__["event"], line.__dict__.get("error")) for line in caplog.records if "lost its" in line.msg]
    assert turns == [("job.queued", None), ("job.queued", None), ("job.failed", "worker_lost")]
    assert queue.claim().job.id == "neighbour"


async def test_a_job_that_lost_a_worker_gets_the_next_one_for_itself(queue: Queue) -> None:
    await queue.submit("suspect")
    await queue.submit("neighbour")
    queue.claim()
    queue.worker.reap()
    queue.end_leases()
    queue.worker.reap()
    with pytest.raises(AloneError):
        queue.claim(alone=False)
    assert queue.claim(alone=True).job.id == "suspect"
    assert queue.claim(alone=False).job.id == "neighbour"


async def test_a_worker_that_ends_because_of_a_job_says_why(queue: Queue) -> None:
    await queue.submit("job_1")
    error = JobError(code="step_timeout", message="a step hung", retryable=True)
    for outcome in ("queued", "queued", "failed"):
        claim = queue.claim()
        assert queue.worker.lose(claim, error) == outcome
        assert queue.worker.lose(claim, error) == "refused"
    job = await queue.job("job_1")
    assert (job.status, job.error, job.losses) == (JobStatus.FAILED, error, 3)


async def test_every_end_of_a_job_is_counted_once_whoever_ends_it(queue: Queue) -> None:
    overview = await queue.client.overview()
    codes = {outcome.code for outcome in overview.ended if outcome.status == "failed"}
    assert {outcome.status for outcome in overview.ended} == {"succeeded", "failed", "canceled", "expired"}
    assert codes == set(ERROR_CODES)
    assert set(overview.ended.values()) == {0}

    for job_id in ("canceled", "late", "drawn", "lost", "broken", "too large"):
        await queue.submit(job_id)
    await queue.client.cancel("canceled", OWNER)
    queue.redis.zadd(f"{queue.settings.redis_prefix}deadlines", {"late": 1})
    queue.worker.expire()
    drawn = queue.claim()
    for _ in range(2):  # the first answer was lost
        queue.commit(drawn)
    await queue.client.delete("drawn", OWNER)
    queue.worker.reap()
    for _ in range(3):
        queue.claim()
        queue.end_leases()
        queue.worker.reap()
    for _ in range(3):
        queue.worker.lose(queue.claim(), JobError(code="device_error", message="x", retryable=True))
    queue.worker.fail(queue.claim(), JobError(code="unheard_of", message='"code":"y"', retryable=False))

    ended = (await queue.client.overview()).ended
    assert {":".join(outcome): count for outcome, count in ended.items() if count} == {
        "succeeded:": 1,
        "canceled:": 1,
        "expired:": 1,
        "failed:worker_lost": 1,
        "failed:device_error": 1,
        "failed:unheard_of": 1,
    }


async def test_a_claim_whose_answer_was_lost_gets_the_same_job_again(queue: Queue) -> None:
    await queue.submit("job_1")
    await queue.submit("job_2")
    first = queue.worker.claim("worker-1", 0, alone=True)
    assert first == queue.worker.claim("worker-1", 0, alone=True)
    assert first is not None
    second = queue.worker.claim("worker-1", 1, alone=False)
    assert second is not None
    assert (first.job.id, second.job.id) == ("job_1", "job_2")
    queue.commit(second)
    assert queue.worker.claim("worker-1", 1, alone=False) is None


@pytest.mark.parametrize("overrides", [{"lease_seconds": 1}])
async def test_after_an_outage_every_running_job_gets_one_more_lease(queue: Queue) -> None:
    await queue.submit("job_1")
    queue.claim()
    queue.worker.reap()
    await asyncio.sleep(1.2)  # longer than a lease: nobody could renew, since nobody could reap either
    assert queue.worker.reap() == {}
    assert (await queue.job("job_1")).status == JobStatus.RUNNING
    queue.end_leases()
    assert queue.worker.reap() == {"job_1": "queued"}


@pytest.mark.parametrize("overrides", [{"lease_seconds": 1}])
async def test_a_renewed_lease_lasts(queue: Queue) -> None:
    await queue.submit("job_1")
    claim = queue.claim()
    for _ in range(4):
        queue.worker.reap()
        await asyncio.sleep(0.4)
        assert queue.worker.heartbeat("worker-1", CARD, None, [claim]) == ["ok"]
    assert queue.worker.reap() == {}


async def test_a_job_handed_back_keeps_its_place_and_counts_no_loss(queue: Queue) -> None:
    await queue.submit("job_1")
    await queue.submit("job_2")
    claim = queue.claim()
    assert queue.worker.requeue(claim) == "queued"
    assert queue.commit(claim) == "succeeded"  # its worker was quicker than it thought
    await queue.submit("job_3")
    assert queue.worker.requeue(queue.claim()) == "queued"
    again = queue.claim()
    assert (again.job.id, again.job.attempt, again.job.losses) == ("job_2", 2, 0)


async def test_a_failed_job_says_why(queue: Queue) -> None:
    await queue.submit("job_1")
    error = JobError(code="out_of_memory", message="too large", retryable=False)
    assert queue.worker.fail(queue.claim(), error) == "failed"
    job = await queue.job("job_1")
    assert (job.status, job.error) == (JobStatus.FAILED, error)


async def test_cancel_of_a_queued_job_is_immediate(queue: Queue) -> None:
    await queue.submit("job_1")
    assert await queue.client.cancel("job_1", OWNER) == ("canceled", "canceled")
    assert await queue.client.cancel("job_1", OWNER) == ("canceled", "canceled")
    assert queue.try_claim("worker-1") is None


@pytest.mark.parametrize("ending", ["commit", "fail", "requeue", "lease"])
async def test_a_running_job_that_was_canceled_ends_as_canceled_whatever_comes_next(queue: Queue, ending: str) -> None:
    await queue.submit("job_1")
    claim = queue.claim()
    queue.worker.reap()
    assert await queue.client.cancel("job_1", OWNER) == ("requested", "running")
    assert queue.worker.progress(claim, 1) == "cancel"
    assert queue.worker.heartbeat("worker-1", CARD, None, [claim]) == ["cancel"]
    match ending:
        case "commit":
            assert queue.commit(claim) == "canceled"
        case "fail":
            assert queue.worker.fail(claim, JobError(code="x", message="x", retryable=False)) == "canceled"
        case "requeue":
            assert queue.worker.requeue(claim) == "canceled"
        case "lease":
            queue.end_leases()
            assert queue.worker.reap() == {"job_1": "canceled"}
    assert (await queue.job("job_1")).status == JobStatus.CANCELED
    assert queue.try_claim("worker-2") is None


async def test_a_cancel_that_comes_after_the_commit_is_told_so(queue: Queue) -> None:
    await queue.submit("job_1")
    queue.commit(queue.claim())
    assert await queue.client.cancel("job_1", OWNER) == ("ended", "succeeded")


@pytest.mark.parametrize("overrides", [{"queue_ttl": 1}])
async def test_a_job_queued_for_too_long_expires(queue: Queue, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    await queue.submit("job_1")
    await queue.submit("job_2")
    await asyncio.sleep(1.1)
    assert queue.try_claim("worker-1") is None  # nobody draws what nobody waits for any more
    assert queue.worker.expire() == []
    assert (await queue.job("job_1")).status == JobStatus.EXPIRED
    told = [(record.levelname, record.getMessage()) for record in caplog.records if "expired" in record.getMessage()]
    assert told == [("INFO", "job job_1 expired in the queue"), ("INFO", "job job_2 expired in the queue")]


async def test_a_job_waits_no_longer_than_its_own_timeout(queue: Queue) -> None:
    await queue.submit("job_1", timeout_seconds=1)
    await queue.submit("job_2")
    await asyncio.sleep(1.1)
    assert queue.worker.expire() == ["job_1"]
    assert queue.claim().job.id == "job_2"


@pytest.mark.parametrize("overrides", [{"job_ttl": 1, "tombstone_ttl": 1}])
async def test_an_ended_job_is_kept_for_a_while_then_gone_then_unknown(queue: Queue) -> None:
    await queue.submit("job_1")
    await queue.submit("waiting")
    queue.commit(queue.claim())
    assert queue.worker.retire() == []
    await asyncio.sleep(1.1)
    assert queue.worker.retire() == ["job_1"]
    queue.worker.delete("job_1")
    with pytest.raises(JobGoneError):
        await queue.job("job_1")
    with pytest.raises(JobUnknownError):
        await queue.client.get("job_1", "somebody else")
    await asyncio.sleep(1.1)
    with pytest.raises(JobUnknownError):
        await queue.job("job_1")
    assert [found.job.id for found in (await queue.client.list(OWNER, status=None, limit=9, cursor=None))[0]] == [
        "waiting"
    ]


async def test_only_ended_jobs_can_be_deleted(queue: Queue) -> None:
    await queue.submit("job_1")
    assert await queue.client.delete("job_1", OWNER) == "active"
    claim = queue.claim()
    assert await queue.client.delete("job_1", OWNER) == "active"
    queue.commit(claim)
    assert await queue.client.delete("job_1", "somebody else") == "unknown"
    assert await queue.client.delete("job_1", OWNER) == "deleted"


async def test_a_deleted_service_leaves_nothing_behind(queue: Queue) -> None:
    for n in range(3):
        await queue.submit(f"job_{n}")
        queue.commit(queue.claim())
        await queue.client.delete(f"job_{n}", OWNER)
    queue.worker.depart("worker-1")
    left = {
        key.removeprefix(queue.settings.redis_prefix)
        for key in queue.redis.scan_iter(f"{queue.settings.redis_prefix}*")
    }
    assert left == {
        "clock",
        "clocks",
        "owed",
        "queued_work",
        "place",
        "outcomes",
        f"usage:{OWNER}",
        "tombstone:job_0",
        "tombstone:job_1",
        "tombstone:job_2",
        "tombstones:someone",
    }


async def test_another_owner_sees_and_changes_nothing(queue: Queue) -> None:
    await queue.submit("job_1")
    with pytest.raises(JobUnknownError):
        await queue.client.get("job_1", "somebody else")
    with pytest.raises(JobUnknownError):
        await queue.client.cancel("job_1", "somebody else")
    assert await queue.client.list("somebody else", status=None, limit=9, cursor=None) == ([], None)


async def test_the_listing_pages_through_all_jobs_newest_first(queue: Queue) -> None:
    for n in range(7):
        await queue.submit(f"job_{n}")
    queue.claim()
    seen: list[str] = []
    cursor = None
    while True:
        page, cursor = await queue.client.list(OWNER, status=None, limit=3, cursor=cursor)
        seen += [found.job.id for found in page]
        if cursor is None:
            break
    assert seen == [f"job_{n}" for n in reversed(range(7))]
    running, _ = await queue.client.list(OWNER, status=JobStatus.RUNNING, limit=3, cursor=None)
    assert [found.job.id for found in running] == ["job_0"]
    with pytest.raises(BadCursorError):
        await queue.client.list(OWNER, status=None, limit=3, cursor="%%%")


async def test_position_and_eta_count_the_work_ahead(queue: Queue) -> None:
    work = 64 * 64 * 8
    queue.worker.heartbeat("worker-1", CARD, work / 2, [])  # two seconds a job
    queue.worker.heartbeat("worker-2", CARD, work / 2, [])
    for n in range(4):
        await queue.submit(f"job_{n}", num_images=1 if n else 2)

    async def place(n: int) -> tuple[int, float]:
        found = await queue.client.get(f"job_{n}", OWNER)
        assert found.place is not None
        assert found.place.eta_seconds is not None
        return found.place.position, found.place.eta_seconds

    assert [await place(n) for n in range(4)] == [(1, 0.0), (2, 2.0), (3, 3.0), (4, 4.0)]
    claim = queue.claim()
    assert [await place(n) for n in (1, 2)] == [(1, 2.0), (2, 3.0)]
    queue.worker.progress(claim, 4)  # half of it is done
    assert [await place(n) for n in (1, 2)] == [(1, 1.0), (2, 2.0)]


async def test_a_list_tells_of_each_job_what_its_own_answer_tells(queue: Queue) -> None:
    queue.worker.heartbeat("worker-1", CARD, 64 * 64 * 8, [])
    for n in range(5):
        await queue.submit(f"job_{n}", priority="high" if n == 3 else "normal")
    queue.worker.progress(queue.claim(), 4)
    listed, _ = await queue.client.list(OWNER, status=None, limit=9, cursor=None)
    assert [found.place and found.place.position for found in listed] == [4, None, 3, 2, 1]
    assert listed == [await queue.client.get(found.job.id, OWNER) for found in listed]


async def test_a_guided_job_counts_for_two_in_the_eta(queue: Queue) -> None:
    queue.worker.heartbeat("worker-1", CARD, 64 * 64 * 8, [])  # a job without guidance a second
    await queue.submit("guided", guidance_scale=4.0)
    await queue.submit("plain", negative_prompt="a dog")
    await queue.submit("last")

    async def eta(job_id: str) -> float | None:
        place = (await queue.client.get(job_id, OWNER)).place
        return place and place.eta_seconds

    assert [await eta(job_id) for job_id in ("guided", "plain", "last")] == [0.0, 2.0, 3.0]
    assert queue.worker.progress(queue.claim(), 4) == "ok"  # half of it is done
    assert [await eta(job_id) for job_id in ("plain", "last")] == [1.0, 2.0]


async def test_without_live_workers_the_eta_includes_loading_the_model(queue: Queue) -> None:
    await queue.submit("job_1")
    unknown = await queue.client.get("job_1", OWNER)
    assert unknown.place is not None
    assert unknown.place.eta_seconds is None
    queue.worker.heartbeat("worker-1", CARD, 100.0, [])
    queue.worker.depart("worker-1")
    known = await queue.client.get("job_1", OWNER)
    assert known.place is not None
    assert known.place.eta_seconds == CARD.load_seconds


async def test_a_long_queue_is_estimated(queue: Queue) -> None:
    queue.worker.heartbeat("worker-1", CARD, 64 * 64 * 8, [])  # a job a second
    for n in range(1203):
        await queue.submit(f"job_{n}")
    found = await queue.client.get("job_1200", OWNER)
    assert found.place is not None
    assert (found.place.position, found.place.eta_seconds) == (1201, pytest.approx(1200))


async def test_a_worker_leaves_jobs_of_a_newer_version_alone(queue: Queue) -> None:
    await queue.submit("new")
    await queue.submit("old")
    queue.redis.hset(f"{queue.settings.redis_prefix}job:new", "schema", SCHEMA_VERSION + 1)
    assert queue.claim().job.id == "old"
    assert queue.try_claim("worker-1") is None
    assert (await queue.job("new")).status == JobStatus.QUEUED


async def test_a_worker_of_an_earlier_release_leaves_jobs_with_a_step_cache_alone(queue: Queue) -> None:
    await queue.submit("cached", step_cache={"mask": "11101001"})
    await queue.submit("plain", step_cache="off")
    assert queue.claim(able=["ten_images"]).job.id == "plain"
    assert queue.try_claim(able=["ten_images"]) is None
    assert queue.claim(able=ABILITIES).job.input.step_cache == StepCacheParameters(mask="11101001")


async def test_a_worker_gets_the_best_job_that_it_can_do(queue: Queue) -> None:
    await queue.submit("both", "styles", "blurring")
    await queue.submit("styled", "styles")
    await queue.submit("plain")
    await queue.submit("blurred", "blurring")
    assert queue.claim().job.id == "plain"
    assert queue.try_claim() is None
    assert queue.claim(able=["blurring", "something else"]).job.id == "blurred"
    assert queue.claim(able=["styles"]).job.id == "styled"
    assert queue.try_claim(able=["styles"]) is None
    assert (await queue.job("both")).status == JobStatus.QUEUED
    assert queue.claim(able=["styles", "blurring"]).job.id == "both"


async def test_a_job_that_a_worker_can_do_is_found_behind_however_many_that_it_can_not(queue: Queue) -> None:
    for n in range(250):
        await queue.submit(f"job_{n}", "styles")
    await queue.submit("plain")
    found = await queue.client.get("plain", OWNER)
    assert found.place is not None
    assert found.place.position == 251
    assert queue.claim().job.id == "plain"
    assert queue.try_claim() is None
    assert queue.worker.pending() == 250
    assert [queue.claim("worker-2", able=["styles"]).job.id for _ in range(3)] == ["job_0", "job_1", "job_2"]


async def test_what_a_worker_of_an_earlier_release_can_not_read_is_found_by_a_later_one(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.store.worker.SCHEMA_VERSION", 3)
    for job_id in ("new", "newer"):
        await queue.submit(job_id)
        queue.redis.hset(f"{queue.settings.redis_prefix}job:{job_id}", "schema", 4)
    assert queue.try_claim("earlier") is None

    monkeypatch.setattr("jobs.store.worker.SCHEMA_VERSION", 4)
    assert [queue.claim("later").job.id for _ in range(2)] == ["new", "newer"]


async def test_jobs_that_nobody_can_do_are_not_looked_at_again_and_again(queue: Queue) -> None:
    for n in range(250):
        await queue.submit(f"job_{n}", "styles")

    def looks() -> int:
        before = queue.redis.info("commandstats")["cmdstat_hmget"]["calls"]
        assert queue.try_claim() is None
        after: int = queue.redis.info("commandstats")["cmdstat_hmget"]["calls"]
        return after - before

    assert looks() > 250
    assert looks() < 10
    await queue.submit("plain")
    assert queue.claim().job.id == "plain"


async def test_a_job_that_comes_before_those_passed_over_is_found_at_once(queue: Queue) -> None:
    await queue.submit("handed back")
    await queue.submit("lost")
    handed_back, lost = queue.claim(), queue.claim()
    for n in range(3):
        await queue.submit(f"job_{n}", "styles", priority="low")
    assert queue.try_claim() is None
    await queue.submit("normal")
    assert queue.claim().job.id == "normal"
    assert queue.try_claim() is None
    queue.worker.requeue(handed_back)
    assert queue.claim().job.id == "handed back"
    queue.worker.lose(lost, JobError(code="device_error", message="x", retryable=True))
    assert queue.claim().job.id == "lost"
    await queue.submit("high", priority="high")
    assert queue.claim().job.id == "high"


async def test_a_job_that_another_release_queued_before_those_passed_over_is_found_later(queue: Queue) -> None:
    await queue.submit("handed back")
    claim = queue.claim()
    await queue.submit("job_0", "styles")
    assert queue.try_claim() is None
    prefix = queue.settings.redis_prefix
    passed = queue.redis.dump(f"{prefix}passed"), queue.redis.pttl(f"{prefix}passed")
    queue.worker.requeue(claim)
    queue.redis.restore(f"{prefix}passed", passed[1], passed[0], replace=True)  # that one's scripts don't touch it
    assert queue.try_claim() is None
    assert 0 < queue.redis.pttl(f"{prefix}passed") <= 10_000
    queue.redis.delete(f"{prefix}passed")  # as time does
    assert queue.claim().job.id == "handed back"


async def test_jobs_that_were_passed_over_expire_like_all_others(queue: Queue) -> None:
    await queue.submit("late", "styles", timeout_seconds=1)
    await queue.submit("later", "styles", timeout_seconds=1)
    await queue.submit("plain", timeout_seconds=1)
    await queue.submit("in time", "styles")
    await asyncio.sleep(1.1)
    assert queue.try_claim() is None
    assert (await queue.job("plain")).status == JobStatus.EXPIRED
    assert queue.worker.expire() == ["late", "later"]
    assert queue.claim(able=["styles"]).job.id == "in time"


async def test_workers_of_earlier_releases_are_told_what_to_leave_alone(queue: Queue) -> None:
    await queue.submit("plain")
    await queue.submit("told", webhook_url="https://hooks.example/")
    await queue.submit("demanding", "styles", "blurring")
    await queue.submit("both", "styles", webhook_url="https://hooks.example/")
    records = [queue.record(job_id) for job_id in ("plain", "told", "demanding", "both")]
    # Their scripts claim schemas up to 2, and keep what they don't know.
    assert [record["schema"] for record in records] == ["1", "2", "3", "3"]
    assert [record.get("needs") for record in records] == [None, None, "blurring styles", "styles"]


@pytest.mark.parametrize("overrides", [{"lease_seconds": 1}])
async def test_a_silent_worker_is_not_counted(queue: Queue) -> None:
    queue.worker.heartbeat("worker-1", CARD, 1.0, [])
    assert (await queue.client.overview()).workers == 1
    time.sleep(1.1)
    assert (await queue.client.overview()).workers == 0


@pytest.fixture
def small_redis(servers: Stack) -> Iterator[redis.Redis]:
    client = redis.Redis.from_url(servers.redis_url, decode_responses=True)
    before = client.config_get("maxmemory")["maxmemory"]
    yield client
    client.config_set("maxmemory", before)
    client.close()


async def test_a_full_redis_refuses_submits_and_ends_what_it_has(queue: Queue, small_redis: redis.Redis) -> None:
    await queue.submit("job_1")
    await queue.submit("job_2")
    small_redis.config_set("maxmemory", 1)
    with pytest.raises(redis.exceptions.RedisError):
        await queue.submit("job_3")
    claim = queue.claim()
    assert queue.worker.progress(claim, 1) == "ok"
    assert queue.commit(claim) == "succeeded"
    assert await queue.client.cancel("job_2", OWNER) == ("canceled", "canceled")
    assert await queue.client.delete("job_2", OWNER) == "deleted"
    with pytest.raises(JobUnknownError):
        await queue.job("job_3")


async def test_a_full_redis_still_lets_go_of_what_is_old(
    queue: Queue, small_redis: redis.Redis, servers: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in servers.environ().items():
        monkeypatch.setenv(name, value)
    settings = queue.settings.model_copy(update={"s3_endpoint": servers.s3_url, "s3_bucket": "zimage"})
    await queue.submit("job_1")
    queue.commit(queue.claim())
    queue.end_retention()
    small_redis.config_set("maxmemory", 1)
    Reaper(queue.redis, ImageStore(settings), celery_app(settings), settings).tick()

    async def until_gone() -> None:
        while await queue.job("job_1"):
            await asyncio.sleep(0.1)

    with pytest.raises(JobGoneError):
        await asyncio.wait_for(until_gone(), 30)


async def test_a_record_that_is_gone_holds_up_no_other_job(queue: Queue) -> None:
    for job_id in ("job_1", "job_2", "job_3", "job_4"):
        await queue.submit(job_id)
    queue.claim("worker-1")
    queue.claim("worker-2")
    queue.redis.delete(*(f"{queue.settings.redis_prefix}job:{job_id}" for job_id in ("job_1", "job_3")))
    assert (await queue.client.get("job_4", OWNER)).place is not None
    queue.worker.reap()  # from now on the reaper knows when it last looked
    queue.end_leases()
    assert queue.worker.reap() == {"job_2": "queued"}
    assert [queue.claim("worker-3").job.id for _ in range(2)] == ["job_2", "job_4"]
    assert queue.try_claim("worker-3") is None
    assert queue.worker.pending() == 0


async def test_the_reaper_rings_for_jobs_whose_message_was_lost(queue: Queue) -> None:
    for job_id in ("job_1", "job_2", "job_3"):
        await queue.submit(job_id)
    reaper = Reaper(queue.redis, ImageStore(queue.settings), celery_app(queue.settings), queue.settings)
    for _ in range(2):
        reaper.tick()
        assert queue.redis.llen(messages_key(queue.settings)) == 3


async def test_an_old_job_whose_record_is_gone_is_forgotten(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.store.worker._RETIRED_AGAIN_SECONDS", 0)
    await queue.submit("job_1")
    for _ in range(3):
        queue.worker.lose(queue.claim(), JobError(code="device_error", message="x", retryable=True))
    queue.redis.delete(f"{queue.settings.redis_prefix}job:job_1")
    queue.end_retention()
    assert queue.worker.retire() == ["job_1"]
    queue.worker.delete("job_1")
    assert queue.worker.retire() == []
    assert (await queue.client.overview()).dead_letters == 0


async def test_an_old_job_is_removed_by_one_process_at_a_time_and_by_another_if_that_one_dies(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.store.worker._RETIRED_AGAIN_SECONDS", 2)
    monkeypatch.setattr("jobs.store.worker.MOST_RETIRED", 4)
    jobs = [f"job_{n}" for n in range(6)]
    for job_id in jobs:
        await queue.submit(job_id)
        queue.commit(queue.claim())
    queue.end_retention()
    first, second = queue.worker.retire(), queue.worker.retire()
    assert (first, second) == (jobs[:4], jobs[4:])
    assert queue.worker.retire() == []
    for job_id in first:
        queue.worker.delete(job_id)
    await asyncio.sleep(2.1)
    assert queue.worker.retire() == second


async def test_all_that_is_old_goes_without_waiting_for_a_next_round(
    queue: Queue, servers: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in servers.environ().items():
        monkeypatch.setenv(name, value)
    for module in ("jobs.store.worker", "jobs.objects.retention"):
        monkeypatch.setattr(f"{module}.MOST_RETIRED", 4)
    settings = queue.settings.model_copy(update={"s3_endpoint": servers.s3_url, "s3_bucket": "zimage"})
    images = ImageStore(settings)
    jobs = {f"job_{secrets.token_hex(8)}" for _ in range(6)}
    for job_id in jobs:
        await queue.submit(job_id)
        images.put_png(images.key(job_id, 1, 0), b"png")
        queue.commit(queue.claim())
    queue.end_retention()
    Reaper(queue.redis, images, celery_app(settings), settings).tick()

    async def until_gone(job_id: str) -> None:
        while await queue.job(job_id):
            await asyncio.sleep(0.1)

    for job_id in jobs:
        with pytest.raises(JobGoneError):
            await asyncio.wait_for(until_gone(job_id), 60)
    assert not jobs & {stored.job_id for page in images.uploads() for stored in page}


async def test_an_s3_that_hangs_keeps_no_lease_waiting(queue: Queue) -> None:
    with s3_keys(), socket.create_server(("127.0.0.1", 0)) as deaf:  # takes connections, and says nothing
        endpoint = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        settings = queue.settings.model_copy(update={"s3_endpoint": endpoint})
        reaper = Reaper(queue.redis, ImageStore(settings), celery_app(settings), settings)
        await queue.submit("job_1")
        queue.commit(queue.claim())
        queue.end_retention()
        reaper.tick()  # job_1 is past its retention
        await queue.submit("job_2")
        queue.claim()
        queue.end_leases()
        reaper.tick()
    assert (await queue.job("job_1")).status == JobStatus.SUCCEEDED
    assert (await queue.job("job_2")).status == JobStatus.QUEUED
