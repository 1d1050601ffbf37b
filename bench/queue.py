"""The queue around the model: how long a POST takes, how soon an idle worker starts, how true position and ETA are.

    python -m bench.queue [--jobs N] [--workers N] [--out FILE]

Runs the embedded stack with the bundled model, so the device is the CPU. Positions and ETAs are those that each job is
told when it is accepted into a queue that is kept filled; they are compared with what then happened.
"""

import argparse
import itertools
import json
import statistics
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import redis

from bench.setting import describe
from cli.stack import Stack

IDLE_JOBS = 20
WAITING_JOBS = 20
QUIET_SECONDS = 30.0
RAMP_JOBS = 2 * WAITING_JOBS
BODY = {"width": 256, "height": 256, "num_inference_steps": 8}
numbers = itertools.count()


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--jobs", type=int, default=60, help="jobs of the steady load")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("bench/results/queue.json"))
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as data,
        Stack(data, workers=arguments.workers) as stack,
        httpx.Client(base_url=stack.api_url, timeout=90) as http,
    ):
        while http.get("/v1/queue").json()["workers"] < arguments.workers:
            time.sleep(0.1)
        with redis.Redis.from_url(stack.redis_url) as client:
            quiet = measure_quiet(client)
            before = redis_work(client)
            steady = measure_steady(http, arguments.jobs)
            after = redis_work(client)
        jobs = RAMP_JOBS + arguments.jobs
        result = {
            **describe("bench.queue", "torch"),
            "idle": measure_idle(http),
            "steady": steady,
            "redis_per_second_without_jobs": quiet,
            "redis_per_job": {name: (after[name] - before[name]) / jobs for name in after},
        }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def redis_work(client: redis.Redis) -> dict[str, float]:
    """Return what Redis has done since its start: commands, those of scripts included, and seconds of CPU."""
    info = client.info()
    return {
        "commands": info["total_commands_processed"],
        "cpu_seconds": info["used_cpu_user"] + info["used_cpu_sys"],
        "aof_bytes": info["aof_current_size"],
    }


def measure_quiet(client: redis.Redis) -> dict[str, float]:
    """Tell what API and idle workers ask of Redis in a second."""
    before = redis_work(client)
    time.sleep(QUIET_SECONDS)
    after = redis_work(client)
    return {name: (after[name] - before[name]) / QUIET_SECONDS for name in after}


def submit(http: httpx.Client) -> tuple[dict[str, Any], float]:
    """Post a job; return it and the seconds that the POST took."""
    body = {"prompt": f"a cat {next(numbers)}", **BODY}  # never the same: features are kept for prompts that come again
    start = time.monotonic()
    job: dict[str, Any] = http.post("/v1/jobs", json=body).raise_for_status().json()
    return job, time.monotonic() - start


def ended(http: httpx.Client, job: dict[str, Any]) -> dict[str, Any]:
    """Wait for a job's end."""
    while True:
        answer: dict[str, Any] = http.get(job["urls"]["self"], headers={"Prefer": "wait=60"}).json()
        if answer["status"] not in ("queued", "running"):
            return answer


def waited(job: dict[str, Any]) -> float:
    """Return the seconds from accepted until the device began."""
    return float(job["timings"]["queue"] + job["timings"]["device_wait"])


def measure_idle(http: httpx.Client) -> dict[str, float]:
    """One job at a time: milliseconds of the POST, until the device begins, until it is finished, and in no stage."""
    posts, waits, totals, others = [], [], [], []
    for _ in range(IDLE_JOBS):
        job, seconds = submit(http)
        seen = ended(http, job)
        posts.append(seconds * 1000)
        waits.append(waited(seen) * 1000)
        totals.append(seen["timings"]["total"] * 1000)
        others.append(seen["timings"]["other"] * 1000)
    return {
        "post_ms": statistics.median(posts),
        "pick_up_ms": statistics.median(waits),
        "pick_up_max_ms": max(waits),
        "total_ms": statistics.median(totals),
        "other_ms": statistics.median(others),
    }


def measure_steady(http: httpx.Client, count: int) -> dict[str, float]:
    """Keep twenty jobs waiting; compare what each was told with what happened, once the load has become steady."""
    told: list[dict[str, Any]] = []
    for _ in range(RAMP_JOBS + count):
        if len(told) > WAITING_JOBS:  # one is at work
            ended(http, told[-WAITING_JOBS - 1])  # waited for, not polled: Redis' work is counted meanwhile
        told.append(submit(http)[0])
    seen = [ended(http, job) for job in told]
    starts = sorted(job["started_at"] for job in seen)
    first, last = (datetime.fromisoformat(moment) for moment in (starts[RAMP_JOBS], starts[-1]))
    job_seconds = (last - first).total_seconds() / (count - 1)
    position_errors, eta_errors = [], []
    for before, after in list(zip(told, seen, strict=True))[RAMP_JOBS:]:
        if before["queue"] is None or before["queue"]["eta_seconds"] is None:
            continue
        started_meanwhile = sum(before["created_at"] < start < after["started_at"] for start in starts)
        position_errors.append(abs(before["queue"]["position"] - 1 - started_meanwhile))
        eta_errors.append((before["queue"]["eta_seconds"], waited(after)))
    # An ETA may be off by one job, since the one at work is known to a step, or by a quarter.
    within = [abs(eta - wait) <= max(job_seconds, 0.25 * wait) for eta, wait in eta_errors]
    long_waits = [abs(eta - wait) / wait for eta, wait in eta_errors if wait > 5 * job_seconds]
    return {
        "jobs_per_second": 1 / job_seconds,
        "position_error_max": max(position_errors),
        "eta_within_a_job_or_25_percent": sum(within) / len(within),
        "eta_relative_error_median": statistics.median(long_waits),
        "eta_relative_error_max": max(long_waits),
    }


if __name__ == "__main__":
    main()
