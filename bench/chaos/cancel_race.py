"""A client's cancel racing the worker's commit: one outcome, told consistently to both sides.

    python -m bench.chaos.cancel_race [--tries N] [--out FILE]

Each try is a running job whose cancel and commit are sent at the same moment from two threads, each over its own
connection, to a real Valkey. Whichever side lost a try is sent a little earlier in the next one, which keeps them close
to a tie. The run fails when the sides are told different things, and is void when only one order occurred.
"""

import argparse
import asyncio
import json
import random
import secrets
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Barrier
from typing import Any

import redis

from bench.setting import describe
from cli.stack import Stack
from jobs.record import ImageRecord
from jobs.settings import Settings
from jobs.spec import JobInput
from jobs.store.client import ClientStore
from jobs.store.redis_client import connect, connect_async
from jobs.store.worker import Claim, WorkerStore

OWNER = "someone"
STEP = 50e-6  # seconds; drawn between 0 and twice that
MAX_HEAD_START = 5e-3  # seconds
# What the cancel is told, what the commit is told and what the record says then: the cancel came first, or the commit.
CANCELED = ("requested", "canceled", "canceled")
COMMITTED = ("ended", "succeeded", "succeeded")
# What both sides are told when they ask once more.
AGAIN = {CANCELED: ("canceled", "canceled"), COMMITTED: ("ended", "succeeded")}


@dataclass(frozen=True)
class Try:
    """What came of one race."""

    outcome: tuple[str, str, str]
    consistent: bool
    overlapped: bool  # each side had sent its call before the other had its answer


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--tries", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=Path("bench/results/chaos/cancel-race.json"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as data, Stack(data, services=False) as stack:
        with redis.Redis.from_url(stack.redis_url, decode_responses=True) as client:
            server = client.info("server")
        start = time.monotonic()
        tries = race(stack.redis_url, arguments.tries)
        seconds = time.monotonic() - start
    setting = describe("bench.chaos.cancel_race", "redis")
    setting["versions"]["valkey"] = server.get("valkey_version", server["redis_version"])
    result = {
        **setting,
        "seconds": round(seconds, 1),
        **summary(tries),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    if result["inconsistent"]:
        sys.exit("the two sides were told different things")
    if {one.outcome for one in tries if one.overlapped} != {CANCELED, COMMITTED}:
        sys.exit("void: only one order occurred")


def summary(tries: list[Try]) -> dict[str, Any]:
    """Count the tries by outcome, those in which the sides were told different things, and the true races."""
    outcomes = Counter(one.outcome for one in tries)
    return {
        "tries": len(tries),
        "outcomes": {
            f"cancel {cancel}, commit {commit}, job {status}": count
            for (cancel, commit, status), count in sorted(outcomes.items())
        },
        "inconsistent": sum(not one.consistent for one in tries),
        "overlapped": sum(one.overlapped for one in tries),
    }


def race(redis_url: str, tries: int) -> list[Try]:
    """Let a cancel and a commit race so many times, each time for a job of its own."""
    settings = Settings(redis_url=redis_url, redis_prefix=f"race-{secrets.token_hex(4)}:")
    results = []
    with asyncio.Runner() as runner, ThreadPoolExecutor(1) as thread, connect(settings) as blocking:
        asynchronous = connect_async(settings)
        client, worker = ClientStore(asynchronous, settings), WorkerStore(blocking, settings)
        head_start = 0.0  # of the cancel; negative: of the commit
        for number in range(tries):
            one = _race_once(runner, thread, client, worker, number, head_start)
            results.append(one)
            step = random.uniform(0, 2 * STEP) * (-1 if one.outcome == CANCELED else 1)  # noqa: S311
            head_start = max(-MAX_HEAD_START, min(MAX_HEAD_START, head_start + step))
        for key in blocking.scan_iter(f"{settings.redis_prefix}*", count=1000):
            blocking.delete(key)
        runner.run(asynchronous.aclose())
    return results


def _race_once(
    runner: asyncio.Runner,
    thread: ThreadPoolExecutor,
    client: ClientStore,
    worker: WorkerStore,
    number: int,
    head_start: float,
) -> Try:
    job_id = f"job_{number}"
    job_input = JobInput(prompt="a cat", seed=1, width=64, height=64)
    runner.run(client.submit(job_id, OWNER, job_input, idempotency_key=None, digest="digest"))
    claim = worker.claim("worker", number, alone=True)
    assert claim is not None
    assert claim.job.id == job_id
    ready = Barrier(2)

    def commit() -> tuple[str, float, float]:
        ready.wait()
        time.sleep(max(0.0, head_start))
        start = time.monotonic()
        return _commit(worker, claim), start, time.monotonic()

    other = thread.submit(commit)
    ready.wait()
    time.sleep(max(0.0, -head_start))
    cancel_start = time.monotonic()
    canceled, _ = runner.run(client.cancel(job_id, OWNER))
    cancel_end = time.monotonic()
    committed, commit_start, commit_end = other.result()

    job = runner.run(client.get(job_id, OWNER)).job
    outcome = (canceled, committed, str(job.status))
    again = (runner.run(client.cancel(job_id, OWNER))[0], _commit(worker, claim))
    consistent = AGAIN.get(outcome) == again and bool(job.images) == (outcome == COMMITTED)
    runner.run(client.delete(job_id, OWNER))
    return Try(outcome, consistent, max(cancel_start, commit_start) < min(cancel_end, commit_end))


def _commit(worker: WorkerStore, claim: Claim) -> str:
    image = ImageRecord(index=0, seed=1, width=64, height=64, bytes=3, sha256="00", key=f"jobs/{claim.job.id}/1/0.png")
    return worker.commit(claim, [image], {"denoise": 0.5}, 0, [])


if __name__ == "__main__":
    main()
