"""Does anything leak, or get lost, in the long run? A mixed load, a random fault each minute, an eye on memory.

    python -m bench.chaos.soak [--minutes N] [--seed N] [--out FILE]

The API and the first worker live through all of it, so that their memory, threads, files and sockets can be
followed; the faults that strike workers strike the second one. Jobs and all that is kept of them expire within two
minutes, so that Redis has to come back to what it held before.
"""

import argparse
import json
import os
import platform
import random
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import psutil

from bench.chaos.__main__ import ENVIRON, Place, chaotic_stack, versions
from bench.chaos.accounting import PATIENCE_SECONDS, Load, wait_for
from bench.chaos.faults import FAULTS, stop_s3, stop_valkey
from bench.chaos.scene import Scene
from bench.usage import usage

KEPT_SECONDS = 120
SETTINGS = {
    **{f"ZIMAGE_{name}_TTL": str(KEPT_SECONDS) for name in ("JOB", "TOMBSTONE", "IDEMPOTENCY")},
    "ZIMAGE_LEASE_SECONDS": "6",
    "ZIMAGE_STEP_TIMEOUT": "60",  # no step hangs here, and the machine may be busy
}
STRIKES = {
    **{
        name: FAULTS[name].act
        for name in (
            "kill-all",
            "freeze",
            "message-5",
            "sigterm",
            "valkey-kill-always",  # as the stack is set up; what everysec forgets when it is killed: bench.chaos.fsync
            "client-kill",
            "valkey-full",
            "s3-kill",
            "s3-503",
            "s3-403",
        )
    },
    "valkey-stop": stop_valkey(12),
    "s3-stop": stop_s3(6),
}
# These come first, the last one foremost: every thread has to wait with a connection to Valkey in hand.
WARMING = ("client-kill", "valkey-stop")
HITS = 2
BATCH = 10
QUEUE_DEPTH = 20  # jobs that may wait
PAUSE_SECONDS = 2.0  # between two batches: the load is steady and leaves the machine room
FAULT_SECONDS = 60.0  # from the begin of one to the begin of the next
SAMPLE_SECONDS = 5.0
KEPT_LONGER = ("zimage:worker", "zimage:celery:unacked")  # than jobs: of killed workers, so it grows with the faults
KEPT_BYTES_A_FAULT = 1000
WARM_UP = 0.2  # of the run; what is used at its end is what may not grow
WINDOW = 0.1  # of the run, over which memory is averaged
GROWTH = 1.05
# Every fault has struck once when half of the run is over: from then on no thread and no file may be added. Sockets
# may: a pool keeps as many connections as were ever in use at once, and which fault makes all threads wait with one in
# hand is chance. But a thread has one at most, to Valkey and to S3 each.
SETTLED = 0.5  # of the run
SOCKETS_A_THREAD = 2
# A Celery that gave up and was started again leaves some to the garbage collector, and so does a lost connection.
EPOLL_DESCRIPTORS = 4


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0, help="of the load and the faults")
    parser.add_argument("--out", type=Path, default=Path("bench/results/chaos/soak.json"))
    arguments = parser.parse_args()
    with chaotic_stack(environ=SETTINGS) as place:
        result = soak(place, arguments.minutes * 60, arguments.seed)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({name: value for name, value in result.items() if name != "samples"}, indent=1))
    if result["problems"]:
        sys.exit("\n".join(result["problems"]))


def soak(place: Place, seconds: float, seed: int) -> dict[str, Any]:
    """Keep the stack at work for so long, strike it each minute, and tell what became of it."""
    load = Load(place.stack.api_url, place.folder)
    scene = Scene(place.stack, load, place.folder, place.proxy, place.environ)
    spared = scene.workers()[0]
    scene.spared = [spared]
    watched = {"api": psutil.Process(place.stack.pids()["api"]), "worker": psutil.Process(spared)}
    load.submit(10 * BATCH)  # so that the base is that of a Redis that has been used
    load.wait_until_done()
    base = memory_when_expired(scene)
    account, over = Account(load), threading.Event()
    samples: list[dict[str, Any]] = []
    struck: list[tuple[float, str]] = []
    failed_strikes: list[str] = []

    def feed() -> None:
        dice = random.Random(seed)  # noqa: S311
        while not over.wait(PAUSE_SECONDS):
            if load.queue()["queued"] > QUEUE_DEPTH:
                continue
            fields = [mixed(dice) for _ in range(BATCH)]
            ids = load.submit(BATCH, dict(enumerate(fields)))
            for job_id, its in zip(ids, fields, strict=True):
                if its["metadata"]["then"] == "cancel":
                    load.cancel(job_id)
            account.expect(ids)

    def watch() -> None:
        while not over.wait(SAMPLE_SECONDS):
            samples.append({name: usage(process) for name, process in watched.items()})

    def strike() -> None:
        dice = random.Random(seed)  # noqa: S311
        names = list(WARMING)
        began = time.monotonic()
        while not over.wait(max(0.0, began + FAULT_SECONDS - time.monotonic())):
            began, second = time.monotonic(), time.time()
            names = names or dice.sample(sorted(STRIKES), len(STRIKES))  # each before any comes again
            name = names.pop()
            scene.hits.clear()
            try:
                STRIKES[name](scene, HITS)  # type: ignore[misc]
                struck.append((second, name))
            except (TimeoutError, AssertionError) as error:
                failed_strikes.append(f"{name}: {error}")

    with ThreadPoolExecutor() as pool:
        running = [pool.submit(each) for each in (feed, watch, strike)]
        wait(running, seconds, FIRST_COMPLETED)  # none ends before unless it fails
        over.set()
        for each in running:
            each.result()
    account.close()
    after = memory_when_expired(scene)
    idle = {name: usage(process) for name, process in watched.items()}
    grown = {name: growth([sample[name] for sample in samples]) for name in watched}
    result = {
        "what": "mixed load with a random fault each minute",
        "command": "python -m " + " ".join(["bench.chaos.soak", *sys.argv[1:]]),
        "device": f"CPU, {os.cpu_count()} cores, 2 workers",
        "versions": versions(scene),
        "system": platform.platform(terse=True),
        "seconds": seconds,
        "settings": {**ENVIRON, **SETTINGS},
        "seed": seed,
        **account.counts(),
        "refusals": dict(load.refusals),
        "faults": dict(Counter(name for _, name in struck)),
        "faults_at": struck,  # for what `troubled` tells the times of
        "faults_not_struck": failed_strikes,
        "growth": grown,
        "idle_in_the_end": idle,
        "redis_base": base,
        "redis_in_the_end": after,
        "samples": samples[:: max(1, len(samples) // 60)],
    }
    result["problems"] = problems(result)
    load.close()
    return result


def mixed(dice: random.Random) -> dict[str, Any]:
    """Return the fields of some job."""
    return {
        "prompt": f"a {dice.choice(['red', 'green', 'blue'])} circle, number {dice.randrange(10**6)}",
        "width": dice.choice([64, 96, 128]),
        "height": dice.choice([64, 96, 128]),
        "num_inference_steps": dice.randint(1, 4),
        "guidance_scale": dice.choice([0.0, 0.0, 2.0]),
        "num_images": dice.choice([1, 1, 1, 2]),
        "priority": dice.choice(["high", "normal", "low"]),
        "metadata": {"then": dice.choice(["keep", "keep", "keep", "cancel", "delete"])},
    }


class Account:
    """Follows accepted jobs to their end, on a thread of its own, before they expire.

    Args:
        load: has submitted them.
    """

    def __init__(self, load: Load) -> None:
        self._load = load
        self._counts: Counter[str] = Counter()
        self._troubled: list[str] = []
        self._ids: list[str] = []
        self._pool = ThreadPoolExecutor(1)
        self._followed: list[Future[None]] = []

    def expect(self, ids: Sequence[str]) -> None:
        """Follow these too."""
        self._ids += ids
        self._followed.append(self._pool.submit(self._follow, ids))

    def close(self) -> None:
        """Return when all jobs are accounted for: doubled ones too, now that no second commit can come."""
        for followed in self._followed:
            followed.result()
        self._pool.shutdown()
        winners = self._load.winners()
        doubled = [job_id for job_id in self._ids if len(winners.get(job_id, ())) > 1]
        self._counts["doubled"] = len(doubled)
        commits = self._load.notes("commits.jsonl") if doubled else []
        self._troubled += [
            f"doubled: {job_id}, committed at {[commit['time'] for commit in commits if commit['job'] == job_id]}"
            for job_id in doubled
        ]

    def counts(self) -> dict[str, Any]:
        """Return how many were accepted, ended in each state, were lost, doubled or damaged; and which these are."""
        names = ("accepted", "succeeded", "canceled", "expired", "failed", "deleted", "lost", "doubled", "damaged")
        return {**{name: self._counts[name] for name in names}, "troubled": self._troubled}

    def _follow(self, ids: Sequence[str]) -> None:
        left = set(ids)

        def look() -> bool:
            ended = list(filter(self._load.ended, left))  # judged at once: others may take longer than they are kept
            self._judge(ended)
            left.difference_update(ended)
            return not left

        wait_for(look, PATIENCE_SECONDS, "the end of a batch")

    def _judge(self, ids: Sequence[str]) -> None:
        account = self._load.account(ids)
        self._counts["accepted"] += len(ids)
        self._counts.update(job["status"] for job in account.jobs.values() if job)
        for word, troubled in (("lost", account.lost), ("damaged", account.damaged)):
            self._counts[word] += len(troubled)
            self._troubled += [f"{word}: {job_id}" for job_id in troubled]
        for job_id, job in account.jobs.items():
            then = job["input"]["metadata"]["then"] if job else None
            if job and job["status"] not in ("succeeded", *(["canceled"] if then == "cancel" else [])):
                self._troubled.append(f"{job['status']}: {job_id}, {job['error']}")
            if then == "delete":
                self._load.delete(job_id)
                self._counts["deleted"] += 1


def growth(samples: Sequence[Mapping[str, int]]) -> dict[str, Any]:
    """Return for each thing used its median after the warm-up and in the end, their ratio, its peak until settled."""
    begin, width = int(len(samples) * WARM_UP), max(1, int(len(samples) * WINDOW))
    settled = max(1, int(len(samples) * SETTLED))
    told = {}
    for name in samples[0]:
        early = statistics.median(sample[name] for sample in samples[begin : begin + width])
        late = statistics.median(sample[name] for sample in samples[-width:])
        told[name] = {
            "after_warm_up": early,
            "in_the_end": late,
            "ratio": late / early if early else None,
            "peak_until_settled": max(sample[name] for sample in samples[:settled]),
        }
    return told


def memory_when_expired(scene: Scene) -> dict[str, Any]:
    """Wait until everything kept of the jobs has expired; return what Redis holds."""

    def empty() -> bool:
        with scene.redis as client:
            return not any(client.scan_iter("zimage:job:*")) and not any(client.scan_iter("zimage:tombstone:*"))

    wait_for(empty, 3 * KEPT_SECONDS + 60, "the expiry of all jobs")
    with scene.redis as client:
        sizes = {key: client.memory_usage(key, samples=0) for key in sorted(client.scan_iter())}
        return {
            "used_memory": client.info("memory")["used_memory"],
            # Workers are kept for a day; what killed ones had heard, for an hour (Celery's visibility timeout).
            "bytes_of_keys": {key: size for key, size in sizes.items() if not key.startswith(KEPT_LONGER)},
            "bytes_kept_longer": sum(size for key, size in sizes.items() if key.startswith(KEPT_LONGER)),
            "workers": sum(key.startswith("zimage:worker:") for key in sizes),
            "unacknowledged": client.hlen("zimage:celery:unacked"),
        }


def problems(result: Mapping[str, Any]) -> list[str]:
    """Return what speaks against the run."""
    found = [*result["troubled"], *(f"not struck: {name}" for name in result["faults_not_struck"])]
    if not result["accepted"]:
        found.append("no job was accepted")
    for name, things in result["growth"].items():
        if things["rss_bytes"]["ratio"] >= GROWTH:
            found.append(f"{name}: memory grew by {things['rss_bytes']['ratio'] - 1:.1%}")
        # A leak is what is still held when there is no more work; under load all of it comes and goes.
        idle = result["idle_in_the_end"][name]
        limits = {thing: things[thing]["peak_until_settled"] for thing in ("threads", "files")}
        limits["files"] += EPOLL_DESCRIPTORS
        limits["sockets"] = SOCKETS_A_THREAD * things["threads"]["peak_until_settled"]
        found += [
            f"{name}: {idle[thing]} {thing} are held in the end, {limit} are expected"
            for thing, limit in limits.items()
            if idle[thing] > limit
        ]
    base, after = result["redis_base"], result["redis_in_the_end"]
    # Not judged by used_memory: of it, 1 MB is the server's own, which grows with each kind of command it meets.
    kept, kept_before = after["bytes_of_keys"], base["bytes_of_keys"]
    if kept.keys() - kept_before.keys() or sum(kept.values()) > GROWTH * sum(kept_before.values()):
        found.append(f"Redis holds {kept}, {kept_before} before")
    of_workers = after["bytes_kept_longer"] - base["bytes_kept_longer"]
    if of_workers > KEPT_BYTES_A_FAULT * sum(result["faults"].values()):
        found.append(f"Redis holds {of_workers} bytes more of workers than before")
    return found


if __name__ == "__main__":
    main()
