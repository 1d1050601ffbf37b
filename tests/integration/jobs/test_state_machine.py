"""Random calls of clients, workers, zombies, reaper and operator on a real Valkey: no illegal transition.

Each rule makes a call, predicts its answer and which fields of which records it may change. After every step all keys
of the service are read back: nothing else may have changed, a status may only have changed as `TRANSITIONS` allows,
every index must hold exactly the jobs whose records ask for it, and what was promised before must still be true. Time
is never waited for: a lease or a deadline is over when its score is set into the past, so that all runs are alike.
"""

import asyncio
import functools
import json
import secrets
from collections import Counter, defaultdict
from collections.abc import Coroutine, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import EllipsisType
from typing import Any

import pytest
import redis
import redis.client
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from cli.stack import Stack
from jobs.model_card import ModelCard
from jobs.record import ImageRecord, JobError, JobStatus
from jobs.settings import Settings
from jobs.spec import JobInput
from jobs.store import scripts
from jobs.store.answers import JobGoneError, JobUnknownError
from jobs.store.client import ClientStore
from jobs.store.dead_letters import DeadLetters
from jobs.store.redis_client import connect, connect_async
from jobs.store.worker import MAX_LOSSES, AloneError, Claim, WorkerStore
from support.demanding import demanding

WORKERS = ["worker-1", "worker-2", "worker-3"]
ABLE: dict[str, frozenset[str]] = dict(
    zip(WORKERS, map(frozenset, ((), ("styles",), ("styles", "blurring"))), strict=True)
)
OWNERS = ["ann", "ben"]
SHIFTS = {"high": -1, "normal": 0, "low": 1}
LIMIT = 5  # queued jobs
WEBHOOK = "https://hooks.example/"  # of every second job
PAST = 1  # the time of everything that is over
CARD = ModelCard(name="tiny", min_size=64, max_size=1024, precision="float32", load_seconds=7.0)
ERROR = JobError(code="internal_error", message="the worker says so", retryable=False)

ENDED = {"succeeded", "failed", "canceled", "expired"}
TRANSITIONS = {
    ("new", "queued"),
    ("queued", "running"),
    ("queued", "canceled"),
    ("queued", "expired"),
    # By the latest attempt alone: its lease was lost, but nobody has claimed the job since.
    ("queued", "succeeded"),
    ("queued", "failed"),
    ("running", "queued"),
    ("running", "succeeded"),
    ("running", "failed"),
    ("running", "canceled"),
    ("failed", "queued"),  # a dead letter that the operator retries
    *((status, "gone") for status in ENDED),
}
# Written by the scripts as they see fit; every other field of a record changes only as a rule predicts.
FREE = {"score", "version", "queued_at", "started_at", "waited", "finished_at", "stages", "peak_vram_bytes", "warnings"}
# What a run must have come to besides every transition; one that has not is void.
ANSWERS = {
    "submit": "created replayed mismatch full",
    "claim": "job nothing alone",
    "heartbeat": "ok cancel lost",
    "progress": "ok cancel lost",
    "commit": "succeeded canceled refused",
    "fail": "failed canceled refused",
    "requeue": "queued canceled refused",
    "lose": "queued failed canceled refused",
    "reap": "queued failed canceled",
    "cancel": "canceled requested ended unknown",
    "delete": "deleted active unknown",
    "retry": "queued unknown",
    "drop": "yes no",
}
CALLS = ["progress", "commit", "fail", "requeue", "lose"]  # those about a claim
COVERAGE = {
    *(f"{call}: {answer}" for call, answers in ANSWERS.items() for answer in answers.split()),
    *(f"{was} to {now}" for was, now in TRANSITIONS),
    *(f"{call} by a zombie" for call in CALLS),
    "claim of a job with losses",
    "claim of a job with needs",
    "claim past jobs with needs",
    "nothing that the worker can do",
    "queued before jobs that were passed over",
    "claim again: the same job",
    "claim again: another job",
    "claim again: the job is elsewhere",
    "commit of a job that was a dead letter",
    "expired by the reaper",
    "expired by a claim",
    "past retention",
    "renewed a lease that was over",
    *(f"event: {status}" for status in ENDED),
    "reap after an outage",
}

READ_EVERYTHING = """
local keys = {}
for _, name in ipairs(redis.call('KEYS', KEYS[1] .. '*')) do
  local kind, value = redis.call('TYPE', name).ok, nil
  if kind == 'hash' then value = redis.call('HGETALL', name)
  elseif kind == 'zset' then value = redis.call('ZRANGE', name, 0, -1, 'WITHSCORES')
  else value = redis.call('GET', name) end
  keys[#keys + 1] = {string.sub(name, #KEYS[1] + 1), kind, value}
end
return cjson.encode(keys)
"""

Record = dict[str, str]
Change = dict[str, str | EllipsisType | None]  # None: the field is gone, ...: it may be anything


@dataclass
class Service:
    """The connections that all runs of the machine share, and what these have come to together."""

    redis_url: str
    blocking: redis.Redis
    asynchronous: redis.asyncio.Redis
    events: redis.client.PubSub
    runner: asyncio.Runner
    covered: Counter[str] = field(default_factory=Counter)


@contextmanager
def service(redis_url: str) -> Iterator[Service]:
    options = Settings(redis_url=redis_url)
    with asyncio.Runner() as runner, connect(options) as blocking, blocking.pubsub() as events:
        events.psubscribe("machine-*:events")
        asynchronous = connect_async(options)
        yield Service(redis_url, blocking, asynchronous, events, runner)
        runner.run(asynchronous.aclose())


class Jobs(RuleBasedStateMachine):
    """One queue, from empty on."""

    def __init__(self, service: Service) -> None:
        super().__init__()
        self.service = service
        self.redis = service.blocking
        self.prefix = f"machine-{secrets.token_hex(4)}:"
        options = Settings(redis_url=service.redis_url, redis_prefix=self.prefix, queue_limit=LIMIT, lease_seconds=3600)
        self.options = options
        self.client = ClientStore(service.asynchronous, options)
        self.worker = WorkerStore(service.blocking, options)
        self.dead_letters = DeadLetters(service.blocking, options)
        self.retry_script = service.blocking.register_script(scripts.source("retry"))
        self.dump = service.blocking.register_script(READ_EVERYTHING)

        self.inputs: dict[str, JobInput] = {}  # of every job ever accepted, by its id
        self.owners: dict[str, str] = {}
        self.keys: dict[tuple[str, str], tuple[str, str]] = {}  # owner, idempotency key -> digest, id
        self.claims: dict[str, Claim] = {}  # every one ever given out, by a name that a reader understands
        self.last: dict[str, tuple[int, bool, str]] = {}  # worker -> number of its last claim, alone, id
        self.alive: set[str] = set()  # workers that sent a heartbeat
        self.acknowledged: dict[str, int] = {}  # id -> attempt whose commit was answered `succeeded`
        self.requested: set[str] = set()  # ids whose cancel was answered `requested`
        self.aged: set[str] = set()  # ids made to be past their retention
        self.retired: set[str] = set()  # those of them that somebody was told to remove
        self.forgiven: set[str] = set()  # ids of dead letters that were retried
        self.events: dict[str, Record] = {}  # that must be in the outbox
        self.dropped: set[str] = set()  # ids of dead letters that were dropped
        self.ends: Counter[str] = Counter()  # of jobs, by status: deleted ones too, retried ones each time
        self.had: defaultdict[str, Counter[str]] = defaultdict(Counter)  # by owner: the same, work drawn, waits
        self.number = 0

        self.records: dict[str, Record] = {}
        self.indexes: dict[str, dict[str, float]] = {}
        self.hashes: dict[str, Record] = {}
        self.strings: dict[str, str] = {}
        self.changes: dict[str, Change] = {}  # what the rule that just ran may have changed

    # What is there

    def read_everything(self) -> None:
        self.records, self.indexes, self.hashes, self.strings = {}, {}, {}, {}
        for name, kind, value in json.loads(self.dump(keys=[self.prefix])):
            if kind == "string":
                self.strings[name] = value
                continue
            pairs = dict(zip(value[::2], value[1::2], strict=True))
            if kind == "zset":
                self.indexes[name] = {member: float(score) for member, score in pairs.items()}
            elif name.startswith("job:"):
                self.records[name.removeprefix("job:")] = pairs
            else:
                self.hashes[name] = pairs

    def ids(self, *statuses: str) -> list[str]:
        return sorted(job_id for job_id, record in self.records.items() if record["status"] in statuses)

    def waiting(self) -> list[str]:
        """Ids of the queued jobs in the order in which they must be claimed."""
        return sorted(self.ids("queued"), key=lambda job_id: self.indexes["pending"][job_id])

    def status(self, job_id: str) -> str:
        return self.records[job_id]["status"] if job_id in self.records else "gone"

    def overdue(self) -> set[str]:
        return {job_id for job_id, end in self.indexes.get("running", {}).items() if end == PAST}

    def is_latest(self, claim: Claim, worker: str) -> bool:
        record = self.records.get(claim.job.id, {})
        return (record.get("worker"), record.get("attempt")) == (worker, str(claim.job.attempt))

    def is_elsewhere(self, claim: Claim) -> bool:
        """Whether a later attempt is at work on the claim's job."""
        return self.status(claim.job.id) == "running" and not self.is_latest(claim, claim.worker)

    def held(self) -> list[str]:
        """Names of the claims whose jobs no other worker has claimed since."""
        return [
            name
            for name, claim in self.claims.items()
            if self.is_latest(claim, claim.worker) and self.status(claim.job.id) in ("running", "queued")
        ]

    def wants_cancel(self, job_id: str) -> bool:
        return "cancel_requested" in self.records[job_id]

    # What must come of a call

    def will_be_queued(self, job_id: str) -> str:
        self.changes[job_id] = {"status": "queued", "step": "0"}
        return "queued"

    def will_end(self, job_id: str, status: str, **fields: str | EllipsisType) -> str:
        self.changes[job_id] = {"status": status, **fields}
        self.ends[status] += 1
        had = self.had[self.owners[job_id]]
        had[status] += 1
        had["work"] += self.inputs[job_id].cost if status == "succeeded" else 0
        return status

    def will_be_settled(self, claim: Claim, outcome: str, **fields: str | EllipsisType) -> str:
        """Predict a commit or a fail."""
        job_id = claim.job.id
        if not self.is_latest(claim, claim.worker):
            return "refused"
        status = self.status(job_id)
        if status in (outcome, "canceled"):
            return status  # told again
        if status in ENDED:
            return "refused"
        return (
            self.will_end(job_id, "canceled") if self.wants_cancel(job_id) else self.will_end(job_id, outcome, **fields)
        )

    def will_be_lost(self, job_id: str) -> str:
        if self.wants_cancel(job_id):
            return self.will_end(job_id, "canceled")
        losses = int(self.records[job_id]["losses"]) + 1
        outcome = self.will_end(job_id, "failed", error=...) if losses == MAX_LOSSES else self.will_be_queued(job_id)
        self.changes[job_id]["losses"] = str(losses)
        return outcome

    def will_be_claimed(self, worker: str, alone: bool) -> str:
        """Predict a claim: the job's id, or `nothing`, or `alone`."""
        passed = False
        for job_id in self.waiting():
            record = self.records[job_id]
            if not self.inputs[job_id].needs <= ABLE[worker]:
                passed = True
            elif record["deadline"] == str(PAST):
                self.will_end(job_id, "expired")
                self.cover("expired by a claim")
            elif record["losses"] != "0" and not alone:
                return "alone"
            else:
                attempt = str(int(record["attempt"]) + 1)
                self.changes[job_id] = {"status": "running", "attempt": attempt, "worker": worker, "step": "0"}
                if passed:
                    self.cover("claim past jobs with needs")
                return job_id
        if passed:
            self.cover("nothing that the worker can do")
        return "nothing"

    # How the rules ask and choose

    def cover(self, what: str) -> None:
        self.service.covered[what] += 1

    def ask(self, call: Coroutine[Any, Any, Any]) -> Any:
        return self.service.runner.run(call)

    def set_scores(self, index: str, ids: Iterable[str]) -> None:
        for job_id in ids:
            self.redis.zadd(f"{self.prefix}{index}", {job_id: PAST}, xx=True)

    def draw_claim(self, data: st.DataObject, call: str) -> Claim:
        """Draw any claim ever given out, often one whose answer is of interest."""
        held = self.held()
        unwanted = [name for name in held if self.wants_cancel(self.claims[name].job.id)]
        late = [name for name in held if self.status(self.claims[name].job.id) == "queued"]
        zombies = [name for name, claim in self.claims.items() if self.is_elsewhere(claim)]
        choices = [st.sampled_from(names) for names in (held, unwanted, late, zombies, list(self.claims)) if names]
        claim = self.claims[data.draw(st.one_of(choices), "claim")]
        return self.noted(call, claim)

    def noted(self, call: str, claim: Claim) -> Claim:
        if self.is_elsewhere(claim):
            self.cover(f"{call} by a zombie")
        return claim

    def draw_job(self, data: st.DataObject, likely: Iterable[str] = ()) -> str:
        """Draw the id of any job ever accepted, often of one that is likely to be changed by the call."""
        every, some = st.sampled_from(list(self.inputs)), sorted(likely)
        job_id: str = data.draw(st.sampled_from(some) | every if some else every, "job")
        return job_id

    # The clients

    @initialize()
    def begin(self) -> None:
        self.worker.reap()  # from now on the reaper knows when it last looked

    @rule(
        owner=st.sampled_from(OWNERS),
        priority=st.sampled_from(list(SHIFTS)),
        timeout=st.sampled_from([None, 600]),
        key=st.sampled_from([None, None, "key-1", "key-2"]),
        digest=st.sampled_from(["digest-1", "digest-1", "digest-2"]),
        needs=st.sampled_from([(), (), ("styles",), ("styles", "blurring")]),
    )
    def submit(
        self, owner: str, priority: Any, timeout: int | None, key: str | None, digest: str, needs: Iterable[str]
    ) -> None:
        self.number += 1
        job_id = f"job-{self.number}"
        webhook = WEBHOOK if self.number % 2 else None
        job_input = demanding(
            *needs, num_images=1 + self.number % 3, priority=priority, timeout_seconds=timeout, webhook_url=webhook
        )
        expected: tuple[str, str | None]
        if key and (owner, key) in self.keys:
            known, first = self.keys[owner, key]
            expected = ("replayed" if known == digest else "mismatch", first)
        elif len(self.ids("queued")) >= LIMIT:
            expected = ("full", None)
        else:
            expected = ("created", job_id)
            self.inputs[job_id], self.owners[job_id] = job_input, owner
            self.changes[job_id] = {"status": "queued", "attempt": "0", "losses": "0", "step": "0", "worker": None}
            if key:
                self.keys[owner, key] = (digest, job_id)
        answer = self.ask(self.client.submit(job_id, owner, job_input, idempotency_key=key, digest=digest))
        assert (answer.outcome, answer.job_id) == expected
        self.cover(f"submit: {answer.outcome}")

    @precondition(lambda self: len(self.ids("queued")) < LIMIT - 1)
    @rule(priorities=st.lists(st.sampled_from(list(SHIFTS)), min_size=2, max_size=4))
    def rush(self, priorities: list[str]) -> None:
        for priority in priorities:
            self.submit(OWNERS[0], priority, None, None, "digest-1", ())
            self.everything_is_as_expected()

    @precondition(lambda self: self.records)
    @rule(data=st.data(), key=st.sampled_from([None, "key-1"]))
    def submit_again_after_a_lost_answer(self, data: st.DataObject, key: str | None) -> None:
        job_id = data.draw(st.sampled_from(sorted(self.records)), "job")
        answer = self.ask(
            self.client.submit(job_id, self.owners[job_id], self.inputs[job_id], idempotency_key=key, digest="digest-1")
        )
        assert (answer.outcome, answer.job_id) == ("created", job_id)

    @precondition(lambda self: self.inputs)
    @rule(data=st.data(), mine=st.sampled_from([True, True, True, False]))
    def cancel(self, data: st.DataObject, mine: bool) -> None:
        self.send_cancel(self.draw_job(data, self.ids("running")), mine)

    @precondition(lambda self: self.ids("running"))
    @rule()
    def the_clients_cancel_all_that_is_running(self) -> None:
        for job_id in self.ids("running"):
            self.send_cancel(job_id)
            self.everything_is_as_expected()

    def send_cancel(self, job_id: str, mine: bool = True) -> None:
        owner, status = self.owners[job_id], self.status(job_id)
        if status == "gone" or not mine:
            with pytest.raises(JobUnknownError):
                self.ask(self.client.cancel(job_id, owner if mine else "somebody else"))
            self.cover("cancel: unknown")
            return
        if status == "queued":
            self.will_end(job_id, "canceled")
            expected = ("canceled", "canceled")
        elif status == "running":
            self.changes[job_id] = {"cancel_requested": "1"}
            self.requested.add(job_id)
            expected = ("requested", "running")
        else:
            expected = ("canceled" if status == "canceled" else "ended", status)
        answer = self.ask(self.client.cancel(job_id, owner))
        assert answer == expected
        self.cover(f"cancel: {answer[0]}")

    @precondition(lambda self: self.inputs)
    @rule(data=st.data(), who=st.sampled_from(["owner", "owner", "reaper", "somebody else"]))
    def delete(self, data: st.DataObject, who: str) -> None:
        if who == "reaper" and self.retired:  # it removes what was named to it, however late
            job_id = data.draw(st.sampled_from(sorted(self.retired)), "job")
            assert self.status(job_id) in ENDED
        else:
            job_id = self.draw_job(data, self.ids(*ENDED))
        status = self.status(job_id)
        if status == "gone" or who == "somebody else":
            expected = "unknown"
        elif status not in ENDED:
            expected = "active"
        else:
            expected = "deleted"
            self.changes[job_id] = {"status": "gone"}
            self.aged.discard(job_id)
            self.retired.discard(job_id)
        if who == "reaper":
            self.worker.delete(job_id)
        else:
            owner = self.owners[job_id] if who == "owner" else who
            assert self.ask(self.client.delete(job_id, owner)) == expected
        self.cover(f"delete: {expected}")

    @precondition(lambda self: self.inputs)
    @rule(data=st.data(), owner=st.sampled_from(OWNERS), status=st.sampled_from([None, *JobStatus]))
    def look(self, data: st.DataObject, owner: str, status: JobStatus | None) -> None:
        job_id = self.draw_job(data)
        if self.owners[job_id] != owner or job_id not in self.records:
            with pytest.raises(JobGoneError if self.owners[job_id] == owner else JobUnknownError):
                self.ask(self.client.get(job_id, owner))
        else:
            found = self.ask(self.client.get(job_id, owner))
            waiting = self.waiting()
            assert found.job.status == self.status(job_id)
            assert (found.place and found.place.position) == (waiting.index(job_id) + 1 if job_id in waiting else None)
        listed, _ = self.ask(self.client.list(owner, status=status, limit=100, cursor=None))
        mine = [job_id for job_id in self.ids(*([status] if status else JobStatus)) if self.owners[job_id] == owner]
        assert [each.job.id for each in listed] == sorted(
            mine, key=lambda job_id: -int(self.records[job_id]["created_at"])
        )
        overview = self.ask(self.client.overview())
        assert overview.counts == {status: len(self.ids(status)) for status in JobStatus}
        assert overview.workers == len(self.alive)
        for key, used in self.ask(self.client.usage(OWNERS)).items():
            queued, running = (
                [job_id for job_id in self.ids(status) if self.owners[job_id] == key]
                for status in ("queued", "running")
            )
            assert (used.queued, used.running) == (len(queued), len(running))
            assert used.queued_work == sum(self.inputs[job_id].cost for job_id in queued)
            assert sum(used.ended.values()) == sum(self.had[key][status] for status in ENDED)

    # The workers

    def try_claim(self, worker: str, number: int, alone: bool) -> str:
        """Claim; return the job's id, or `nothing`, or `alone`."""
        try:
            claim = self.worker.claim(worker, number, alone=alone, abilities=ABLE[worker])
        except AloneError:
            return "alone"
        if claim is None:
            return "nothing"
        job = claim.job
        assert (claim.worker, job.worker, job.status) == (worker, worker, "running")
        assert alone or not job.losses
        self.last[worker] = (number, alone, job.id)
        self.claims[f"{job.id}, attempt {job.attempt}, {worker}"] = claim
        return job.id

    @precondition(lambda self: self.inputs)
    @rule(worker=st.sampled_from(WORKERS), alone=st.booleans())
    def claim(self, worker: str, alone: bool) -> None:
        number = self.last[worker][0] + 1 if worker in self.last else 0
        expected = self.will_be_claimed(worker, alone)
        answer = self.try_claim(worker, number, alone)
        assert answer == expected
        self.cover(f"claim: {answer if answer in ('nothing', 'alone') else 'job'}")
        if answer in self.records and self.records[answer]["losses"] != "0":
            self.cover("claim of a job with losses")
        if answer in self.records and self.inputs[answer].needs:
            self.cover("claim of a job with needs")

    @precondition(lambda self: self.waiting())
    @rule(alone=st.booleans())
    def every_worker_claims(self, alone: bool) -> None:
        for worker in WORKERS:
            self.claim(worker, alone)
            self.everything_is_as_expected()

    def new_claims(self, worker: str) -> list[Claim]:
        """Let a worker claim; return what it got, one claim or none."""
        before = set(self.claims)
        self.claim(worker, alone=True)
        self.everything_is_as_expected()
        return [claim for name, claim in self.claims.items() if name not in before]

    @precondition(lambda self: self.waiting())
    @rule(worker=st.sampled_from(WORKERS), times=st.sampled_from([1, MAX_LOSSES, MAX_LOSSES]), says_so=st.booleans())
    def a_job_kills_its_worker(self, worker: str, times: int, says_so: bool) -> None:
        for _ in range(times):
            for claim in self.new_claims(worker):
                if says_so:
                    self.send_lose(claim)
                else:
                    self.set_scores("running", [claim.job.id])
                    self.read_everything()
                    self.reap()
                self.everything_is_as_expected()

    @precondition(lambda self: self.ids("running"))
    @rule(data=st.data(), worker=st.sampled_from(WORKERS), call=st.sampled_from(CALLS))
    def a_job_changes_hands_and_the_zombie_calls(self, data: st.DataObject, worker: str, call: str) -> None:
        job_id = data.draw(st.sampled_from(self.ids("running")), "job")
        zombies = [claim for claim in self.claims.values() if claim.job.id == job_id]
        self.set_scores("running", [job_id])
        self.read_everything()
        self.reap()
        self.everything_is_as_expected()
        self.claim(worker, alone=True)
        self.everything_is_as_expected()
        getattr(self, f"send_{call}")(self.noted(call, zombies[-1]))

    @precondition(lambda self: self.last)
    @rule(data=st.data())
    def claim_again_after_a_lost_answer(self, data: st.DataObject) -> None:
        robbed = [
            worker
            for worker, (_, _, job_id) in sorted(self.last.items())
            if self.status(job_id) == "running" and self.records[job_id]["worker"] != worker
        ]
        choices = [st.sampled_from(workers) for workers in (robbed, sorted(self.last)) if workers]
        worker = data.draw(st.one_of(choices), "worker")
        number, alone, job_id = self.last[worker]
        same = self.status(job_id) == "running" and self.records[job_id]["worker"] == worker
        expected = job_id if same else self.will_be_claimed(worker, alone)
        answer = self.try_claim(worker, number, alone)
        assert answer == expected
        self.cover(f"claim again: {'the same' if same else 'another'} job")
        if worker in robbed:
            self.cover("claim again: the job is elsewhere")

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def heartbeat(self, data: st.DataObject) -> None:
        holders = sorted({self.claims[name].worker for name in self.held()})
        choices = [st.sampled_from(workers) for workers in (holders, WORKERS) if workers]
        worker = data.draw(st.one_of(choices), "worker")
        self.send_heartbeat(worker, data.draw(st.lists(st.sampled_from(list(self.claims)), max_size=2), "old claims"))

    def send_heartbeat(self, worker: str, old: Iterable[str] = ()) -> None:
        """Renew what the worker holds, and ask about old claims, perhaps of others."""
        held = [name for name in self.held() if self.claims[name].worker == worker]
        claims = [self.claims[name] for name in dict.fromkeys([*held, *old])]
        expected = []
        for claim in claims:
            status = self.status(claim.job.id) if self.is_latest(claim, worker) else "gone"
            running = "cancel" if status == "running" and self.wants_cancel(claim.job.id) else "ok"
            expected.append({"running": running, "queued": "ok"}.get(status, "lost"))
        assert self.worker.heartbeat(worker, CARD, 1000.0, claims) == expected
        self.alive.add(worker)
        renewed = {claim.job.id for claim, verdict in zip(claims, expected, strict=True) if verdict != "lost"}
        before = self.overdue()
        self.read_leases()
        assert self.overdue() == before - renewed
        for verdict in expected:
            self.cover(f"heartbeat: {verdict}")
        if renewed & before:
            self.cover("renewed a lease that was over")

    def read_leases(self) -> None:
        leases: Any = self.redis.zrange(f"{self.prefix}running", 0, -1, withscores=True)
        self.indexes["running"] = dict(leases)

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), step=st.integers(0, 8))
    def progress(self, data: st.DataObject, step: int) -> None:
        self.send_progress(self.draw_claim(data, "progress"), step)

    def send_progress(self, claim: Claim, step: int = 8) -> None:
        job_id = claim.job.id
        status = self.status(job_id) if self.is_latest(claim, claim.worker) else "gone"
        if status == "running" and self.wants_cancel(job_id):
            expected = "cancel"
        else:
            expected = "ok" if status in ("running", "queued") else "lost"
        if status == "running" and expected == "ok" and self.records[job_id]["step"] != str(step):
            self.changes[job_id] = {"step": str(step)}
        assert self.worker.progress(claim, step) == expected
        self.cover(f"progress: {expected}")

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), times=st.sampled_from([1, 2]))
    def commit(self, data: st.DataObject, times: int) -> None:
        self.send_commit(self.draw_claim(data, "commit"), times)

    @precondition(lambda self: self.waiting())
    @rule(worker=st.sampled_from(WORKERS))
    def a_job_goes_well(self, worker: str) -> None:
        for claim in self.new_claims(worker):
            self.send_commit(claim)

    def send_commit(self, claim: Claim, times: int = 1) -> None:
        job_id, attempt = claim.job.id, claim.job.attempt
        self.number += 1
        key = f"jobs/{job_id}/{attempt}/0.png"
        image = ImageRecord(index=0, seed=1, width=64, height=64, bytes=3, sha256=f"{self.number}", key=key)
        images = json.dumps([image.model_dump()])
        expected = self.will_be_settled(claim, "succeeded", images=images, step=self.total(job_id))
        for _ in range(times):
            assert self.worker.commit(claim, [image], {"denoise": 0.5}, 0, []) == expected
        if expected == "succeeded":
            assert self.acknowledged.setdefault(job_id, attempt) == attempt
            if job_id in self.forgiven:
                self.cover("commit of a job that was a dead letter")
        self.cover(f"commit: {expected}")

    def total(self, job_id: str) -> str:
        return str(self.inputs[job_id].num_inference_steps)

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), times=st.sampled_from([1, 2]))
    def fail(self, data: st.DataObject, times: int) -> None:
        self.send_fail(self.draw_claim(data, "fail"), times)

    def send_fail(self, claim: Claim, times: int = 1) -> None:
        expected = self.will_be_settled(claim, "failed", error=ERROR.model_dump_json())
        for _ in range(times):
            assert self.worker.fail(claim, ERROR) == expected
        self.cover(f"fail: {expected}")

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), times=st.sampled_from([1, 2]))
    def requeue(self, data: st.DataObject, times: int) -> None:
        self.send_requeue(self.draw_claim(data, "requeue"), times)

    def send_requeue(self, claim: Claim, times: int = 1) -> None:
        job_id = claim.job.id
        status = self.status(job_id) if self.is_latest(claim, claim.worker) else "gone"
        if status == "running":
            wanted = self.wants_cancel(job_id)
            expected = self.will_end(job_id, "canceled") if wanted else self.will_be_queued(job_id)
        else:
            expected = status if status in ("queued", "canceled") else "refused"
        for _ in range(times):
            assert self.worker.requeue(claim) == expected
        self.cover(f"requeue: {expected}")

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        self.send_lose(self.draw_claim(data, "lose"))

    def send_lose(self, claim: Claim) -> None:
        running = self.is_latest(claim, claim.worker) and self.status(claim.job.id) == "running"
        expected = self.will_be_lost(claim.job.id) if running else "refused"
        assert self.worker.lose(claim, ERROR) == expected
        self.cover(f"lose: {expected}")

    # Time, the reaper and the operator

    @precondition(lambda self: self.ids("running"))
    @rule(data=st.data(), just_in_time=st.booleans())
    def leases_end(self, data: st.DataObject, just_in_time: bool) -> None:
        jobs = data.draw(st.sets(st.sampled_from(self.ids("running")), min_size=1), "jobs")
        self.set_scores("running", jobs)
        self.read_everything()
        if just_in_time:
            self.send_heartbeat(self.records[min(jobs)]["worker"])

    @precondition(lambda self: self.ids("queued", "running"))
    @rule(data=st.data())
    def deadline_passes(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(self.ids("queued", "running")), "job")
        self.set_scores("deadlines", [job_id])
        self.redis.hset(f"{self.prefix}job:{job_id}", "deadline", PAST)
        self.read_everything()

    @precondition(lambda self: self.ids(*ENDED))
    @rule(data=st.data())
    def retention_ends(self, data: st.DataObject) -> None:
        jobs = data.draw(st.sets(st.sampled_from(self.ids(*ENDED)), min_size=1), "jobs")
        undrawn = jobs & set(self.ids("canceled", "expired"))
        short = bool(undrawn) and data.draw(st.booleans(), "short")
        jobs = undrawn if short else jobs
        self.set_scores("undrawn" if short else "ended", jobs)
        self.aged |= jobs
        self.retired -= jobs
        self.read_everything()

    @precondition(lambda self: self.ids("running"))
    @rule()
    def reap(self) -> None:
        expected = {job_id: self.will_be_lost(job_id) for job_id in sorted(self.overdue())}
        assert self.worker.reap() == expected
        for outcome in expected.values():
            self.cover(f"reap: {outcome}")

    @precondition(lambda self: self.overdue())
    @rule()
    def reap_after_an_outage(self) -> None:
        """Nobody could reap for longer than a lease, so nobody could renew either: each gets one more."""
        self.redis.set(f"{self.prefix}reaper:last", PAST)
        assert self.worker.reap() == {}
        self.read_leases()
        assert self.overdue() == set()
        self.cover("reap after an outage")

    @precondition(lambda self: self.inputs)
    @rule()
    def expire(self) -> None:
        late = [job_id for job_id in self.ids("queued") if self.records[job_id]["deadline"] == str(PAST)]
        for job_id in late:
            self.will_end(job_id, "expired")
            self.cover("expired by the reaper")
        assert sorted(self.worker.expire()) == late

    @precondition(lambda self: self.ids(*ENDED))
    @rule()
    def retire(self) -> None:
        old = self.aged - self.retired
        assert set(self.worker.retire()) == old
        self.retired |= old
        self.dropped |= old
        if old:
            self.cover("past retention")
        if old & set(self.ids("canceled", "expired")):
            self.cover("past retention: undrawn")

    @precondition(lambda self: self.indexes.get("dead"))
    @rule(data=st.data(), goes_well=st.booleans())
    def retry(self, data: st.DataObject, goes_well: bool) -> None:
        dead = sorted(self.indexes.get("dead", {}))
        job_id = self.draw_job(data, dead)
        expected = "unknown"
        if job_id in dead:
            expected = self.will_be_queued(job_id)
            self.changes[job_id] |= {"losses": "0", "error": None, "worker": None, "deadline": ...}
            self.aged.discard(job_id)
            self.retired.discard(job_id)
            self.forgiven.add(job_id)
        assert self.dead_letters.retry(job_id) == expected
        # As one does who looked while it was a dead letter still, and comes too late.
        arguments: list[str | int] = [job_id, self.inputs[job_id].cost, self.options.queue_ttl]
        assert self.retry_script(keys=[self.prefix], args=arguments) == "unknown"
        self.cover(f"retry: {expected}")
        if expected == "queued" and goes_well:
            self.everything_is_as_expected()
            self.a_job_goes_well(WORKERS[-1])  # who can do them all

    @precondition(lambda self: self.indexes.get("dead"))
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        dead = sorted(self.indexes.get("dead", {}))
        job_id = self.draw_job(data, dead)
        assert self.dead_letters.drop(job_id) == (job_id in dead)
        if job_id in dead:
            self.dropped.add(job_id)
        self.cover("drop: yes" if job_id in dead else "drop: no")

    # What is true after every step

    @invariant()
    def everything_is_as_expected(self) -> None:
        before, dead, places = self.records, set(self.indexes.get("dead", {})), self.indexes.get("passed", {})
        changes, self.changes = self.changes, {}
        self.read_everything()
        versions = self.published()
        for job_id in sorted(before.keys() | self.records.keys() | changes.keys()):
            self.check_change(job_id, before.get(job_id), self.records.get(job_id), changes.get(job_id), job_id in dead)
            old, new = (int(records.get(job_id, {}).get("version", 0)) for records in (before, self.records))
            told = versions.pop(job_id, [])
            assert [version for version, _ in told] == list(range(old + 1, new + 1))
            assert not told or told[-1][1] == self.status(job_id)
        assert not versions
        for job_id, record in self.records.items():
            self.check_record(job_id, record)
        self.check_keys()
        self.check_places(places)

    def published(self) -> dict[str, list[tuple[int, str]]]:
        """Return the versions and states that were told to whoever waits, by job, since this was asked last."""
        versions = defaultdict(list)
        while message := self.service.events.get_message(timeout=0):
            if message["type"] == "pmessage" and message["channel"] == f"{self.prefix}events":
                job_id, version, status = message["data"].split()
                versions[job_id].append((int(version), status))
        return versions

    def check_change(
        self, job_id: str, old: Record | None, new: Record | None, change: Change | None, was_dead: bool
    ) -> None:
        if change is None:
            assert old, f"{job_id} came"
            assert new, f"{job_id} went"
            assert new == old, f"{job_id} changed"
            return
        was, now = old["status"] if old else "new", new["status"] if new else "gone"
        if was != now:
            assert (was, now) in TRANSITIONS, f"{job_id} went from {was} to {now}"
            assert (was, now) != ("failed", "queued") or was_dead
            self.cover(f"{was} to {now}")
            if new is not None and now in ENDED and self.inputs[job_id].webhook_url:
                self.events[f"evt_{job_id}_{new['version']}"] = new
                self.cover(f"event: {now}")
        else:
            assert was not in ENDED, f"{job_id} changed after it had ended"
        assert now == change.get("status", was)
        if new is None:
            return
        for name in (new.keys() | (old or {}).keys() | change.keys()) - FREE:
            if old is None and name not in change:
                continue
            expected = change[name] if name in change else (old or {}).get(name)
            assert expected is ... or new.get(name) == expected, f"{job_id}: {name}"
        if old is None:
            created, ttl = int(new["created_at"]), self.inputs[job_id].timeout_seconds or self.options.queue_ttl
            shift = SHIFTS[self.inputs[job_id].priority] * self.options.priority_seconds
            assert int(new["own_order"]) - created == shift * 1_000_000
            assert int(new["turn"]) > 0
            assert int(new["deadline"]) - created == ttl * 1_000_000
            asked = self.inputs[job_id]
            assert type(asked).model_validate_json(new["input"]) == asked
            assert new.get("needs", "").split() == sorted(asked.needs)
            assert new["schema"] == ("3" if asked.needs else "2" if asked.webhook_url else "1")
        else:
            assert int(new["version"]) > int(old["version"])
            claimed = (was, now) == ("queued", "running")
            assert int(new["attempt"]) - int(old["attempt"]) == claimed
            waited = int(new["started_at"]) - int(old["queued_at"]) if claimed else 0
            assert int(new.get("waited", 0)) - int(old.get("waited", 0)) == waited
            if claimed:
                self.had[new["owner"]] += Counter({"waits": 1, "waited": waited})

    def check_record(self, job_id: str, record: Record) -> None:
        status, losses = record["status"], int(record["losses"])
        assert (record["id"], record["owner"]) == (job_id, self.owners[job_id])
        assert ("finished_at" in record) == (status in ENDED)
        assert ("images" in record) == (status == "succeeded")
        assert ("error" in record) == (status == "failed")
        assert status != "running" or int(record["queued_at"]) <= int(record["started_at"])
        assert status != "queued" or "started_at" not in record
        assert losses <= MAX_LOSSES
        assert losses < MAX_LOSSES or status == "failed"
        assert job_id not in self.requested or status in ("running", "canceled")
        if status == "succeeded":
            [image] = json.loads(record["images"])
            assert image["key"] == f"jobs/{job_id}/{self.acknowledged[job_id]}/0.png"
            assert record["attempt"] == str(self.acknowledged[job_id])
        else:
            assert job_id not in self.acknowledged

    def removal(self, index: str, job_id: str, record: Record) -> float | None:
        """Return where a job stands among those that are to be removed."""
        return self.indexes[index].get(job_id) if job_id in self.aged else float(record["finished_at"])

    def check_keys(self) -> None:
        """Every key of the service is as the records ask for."""
        indexes: dict[str, dict[str, float | None]] = defaultdict(dict)
        for job_id, record in self.records.items():
            status, owner, created = record["status"], record["owner"], float(record["created_at"])
            for name in (f"status:{status}", f"owner:{owner}", f"owner:{owner}:{status}"):
                indexes[name][job_id] = created
            if status == "queued":
                indexes["pending"][job_id] = self.indexes.get("pending", {}).get(job_id)
                indexes[f"turns:{owner}"][job_id] = float(record["own_order"])
                indexes["deadlines"][job_id] = float(record["deadline"])
            elif status == "running":
                indexes["running"][job_id] = self.indexes.get("running", {}).get(job_id)
            else:
                indexes["ended"][job_id] = self.removal("ended", job_id, record)
            if status in ("canceled", "expired"):
                indexes["undrawn"][job_id] = self.removal("undrawn", job_id, record)
            if record["losses"] == str(MAX_LOSSES) and job_id not in self.dropped:
                indexes["dead"][job_id] = self.indexes.get("dead", {}).get(job_id)
        for event in self.events:
            indexes["webhooks"][event] = self.indexes.get("webhooks", {}).get(event)
        gone = self.inputs.keys() - self.records.keys()
        for job_id in gone:
            name = f"tombstones:{self.owners[job_id]}"
            indexes[name][job_id] = self.indexes.get(name, {}).get(job_id)
        found = {name: index for name, index in self.indexes.items() if name not in ("workers", "passed")}
        assert found == indexes
        assert set(self.indexes.get("workers", {})) == self.alive

        owed: Counter[str] = Counter(dict.fromkeys(self.hashes.get("owed", {}), 0))
        for job_id in self.waiting():
            owed[self.owners[job_id]] += int(self.records[job_id]["turn"])
        assert self.hashes.get("owed", {}) == {owner: str(turns) for owner, turns in owed.items()}
        queued_work: Counter[str] = Counter(dict.fromkeys(self.hashes.get("queued_work", {}), 0))
        for job_id in self.waiting():
            queued_work[self.owners[job_id]] += self.inputs[job_id].cost
        assert self.hashes.get("queued_work", {}) == {owner: str(work) for owner, work in queued_work.items()}
        for owner in OWNERS:
            turns = [
                int(self.records[job_id]["own_order"]) for job_id in self.waiting() if self.owners[job_id] == owner
            ]
            assert turns == sorted(turns), "a key's own jobs are out of their order"

        active = {job_id: str(self.inputs[job_id].cost) for job_id in self.ids("queued", "running")}
        assert self.hashes.get("work", {}) == active
        ends: Counter[str] = Counter()
        for outcome, count in self.hashes.get("outcomes", {}).items():
            ends[outcome.split(":")[0]] += int(count)
        assert ends == self.ends
        for owner in OWNERS:
            had: Counter[str] = Counter()
            for name, count in self.hashes.get(f"usage:{owner}", {}).items():
                had["waits" if name.startswith("wait:") else name] += int(count)
            assert had == self.had[owner]
        workers = {f"worker:{worker}" for worker in {*self.last, *self.alive}}
        events = {f"webhook:{event}": record for event, record in self.events.items()}
        usages = {f"usage:{owner}" for owner, had in self.had.items() if had}
        common = {"work", "outcomes", "clocks", "owed", "queued_work", "kept"}
        assert self.hashes.keys() - common == workers | events.keys() | usages
        assert {name: self.hashes[name] for name in events} == events  # as the job ended, whatever became of it since

        kept: Counter[str] = Counter()
        for record in (*self.records.values(), *self.events.values()):
            kept[record["owner"]] += int(record["bytes"])
        assert self.hashes.get("kept", {}) == {owner: str(size) for owner, size in kept.items()}

        repeatable = {job_id: key for (_, key), (_, job_id) in self.keys.items()}
        assert {name: value for name, value in self.strings.items() if ":" in name and name != "reaper:last"} == {
            **{f"tombstone:{job_id}": f"{self.owners[job_id]} {repeatable.get(job_id, '')}".strip() for job_id in gone},
            **{f"idempotency:{owner}:{key}": " ".join(first) for (owner, key), first in self.keys.items()},
        }
        assert {name for name in self.strings if ":" not in name} <= {"card", "rate", "clock", "place", "pace"}

    def check_places(self, before: dict[str, float]) -> None:
        """No job is overlooked: those before the place that a worker's next claim starts from are not for it."""
        for kind, place in self.indexes.get("passed", {}).items():
            if place < before.get(kind, 0):
                self.cover("queued before jobs that were passed over")
            for job_id in self.waiting():
                if self.indexes["pending"][job_id] < place:
                    assert not self.inputs[job_id].needs <= set(kind.split()[1:])  # the first is the schema

    def teardown(self) -> None:
        names = [*self.strings, *self.indexes, *self.hashes, *(f"job:{job_id}" for job_id in self.records)]
        if names:
            self.redis.delete(*(f"{self.prefix}{name}" for name in names))


def test_random_calls_cause_no_transition_that_is_not_allowed(servers: Stack) -> None:
    with service(servers.redis_url) as shared:
        run_state_machine_as_test(
            functools.partial(Jobs, shared),  # type: ignore[arg-type]  # any factory will do
            settings=settings(
                max_examples=300,
                stateful_step_count=50,
                derandomize=True,  # the same calls at every run, so that a red test stays red
                database=None,
                deadline=None,
                suppress_health_check=[HealthCheck.too_slow],
                phases=(Phase.generate, Phase.shrink),
                report_multiple_bugs=False,
            ),
        )
    assert COVERAGE - shared.covered.keys() == set(), "void: the run never came to these"
