"""Many open event streams: how late an event reaches its client, and what they cost the API process.

    python -m bench.events [--jobs N] [--streams N] [--workers N] [--out FILE]

Posts jobs to the embedded stack (CPU, bundled model, 64×64 in 2 steps) while its workers are stopped, opens the
streams, the same number for each job, from processes apart from the API's, and lets the workers go. The delay of a
change of a job's record, for each stream of that job, is the time from Redis' message about it, as a subscriber of this
benchmark's own receives it, to the event with that version, or with a later one (a stream may pass over versions), in
the client's process; all on this machine's wall clock. `subscriber_lag_ms` is how late that subscriber is itself: from
a job's `finished_at`, which Redis' clock gives, to the message.
"""

import argparse
import asyncio
import json
import multiprocessing
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

import httpx
import psutil
import redis

from bench.setting import describe
from bench.usage import peak_rss
from cli.stack import Stack
from jobs.settings import Settings

CLIENTS = 2
IDLE_SECONDS = 10
ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # drawing is not what is measured: on a small machine it leaves the API a core
BODY = {"width": 64, "height": 64, "num_inference_steps": 2}
CHANNEL = f"{Settings().redis_prefix}events"

Arrivals = Sequence[tuple[int, float]]  # of one stream's events: version, time


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("bench/results/events.json"))
    arguments = parser.parse_args()
    many = str(10 * arguments.streams)
    env = {**ONE_THREAD, "ZIMAGE_STREAMS_PER_KEY": many, "ZIMAGE_READS_PER_SECOND": many}
    with tempfile.TemporaryDirectory() as data, Stack(data, workers=arguments.workers, env=env) as stack:
        result = {
            **describe("bench.events", "redis", "fastapi", "uvicorn"),
            **measure(stack, arguments.jobs, arguments.streams, arguments.workers),
        }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def measure(stack: Stack, count: int, streams: int, workers: int) -> dict[str, Any]:
    """Draw jobs before the eyes of many streams; return delays, and what the API used."""
    api = stack.pids()["api"]
    with (
        redis.Redis.from_url(stack.redis_url, decode_responses=True) as client,
        httpx.Client(base_url=stack.api_url) as http,
        Changes(client) as changes,
    ):
        while http.get("/v1/queue").json()["workers"] < workers:
            time.sleep(0.1)
        hold(stack, psutil.Process.suspend)
        jobs = [submit(http, number) for number in range(count)]
        clients = [Client(stack.api_url, jobs, range(first, streams, CLIENTS)) for first in range(CLIENTS)]
        for each in clients:
            each.receive()  # all of its streams are open
        used = {
            "redis_connections": redis_connections(client, api),
            "subscriptions": client.pubsub_numsub(CHANNEL)[0][1] - 1,
            "reads_per_second_while_nothing_changes": idle_reads(client),
        }
        hold(stack, psutil.Process.resume)
        start = time.monotonic()
        arrivals = [pair for each in clients for pair in each.receive()]
        seconds = time.monotonic() - start
        ended = {job: http.get(f"/v1/jobs/{job}").json() for job in jobs}
    if any(job["status"] != "succeeded" for job in ended.values()):
        raise RuntimeError("not every job succeeded")
    late = [delay for job, seen in arrivals for delay in delays(changes.times[job], seen)]
    finished = {job: datetime.fromisoformat(body["finished_at"]).timestamp() for job, body in ended.items()}
    return {
        "jobs": count,
        "streams": len(arrivals),
        "seconds": seconds,
        "changes_times_streams": len(late),
        "events": sum(len(seen) - 1 for _, seen in arrivals),  # without the one that a stream begins with
        "delay_ms": spread(late),
        "subscriber_lag_ms": spread([max(changes.times[job].values()) - moment for job, moment in finished.items()]),
        "api_peak_rss_mib": peak_rss(api) / 2**20,
        "api": used,
    }


def hold(stack: Stack, act: Callable[[psutil.Process], None]) -> None:
    """Suspend or resume the workers."""
    for pid in stack.pids()["workers"]:
        act(psutil.Process(pid))


def submit(http: httpx.Client, number: int) -> str:
    """Post a job; return its id."""
    answer = http.post("/v1/jobs", json={"prompt": f"a cat {number}", **BODY}).raise_for_status()
    job_id: str = answer.json()["id"]
    return job_id


class Changes:
    """Listens to the channel of changes, on a thread of its own.

    Attributes:
        times: when each version of each job was told.
    """

    def __init__(self, client: redis.Redis) -> None:
        self.times: defaultdict[str, dict[int, float]] = defaultdict(dict)
        self._pubsub = client.pubsub()  # type: ignore[no-untyped-call]
        self._pubsub.subscribe(CHANNEL)
        self._thread = threading.Thread(target=self._listen)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._pubsub.unsubscribe()
        self._thread.join()

    def _listen(self) -> None:
        for message in self._pubsub.listen():
            if message["type"] == "message":
                moment = time.time()
                job, version, _ = message["data"].split(" ")
                self.times[job][int(version)] = moment


class Client:
    """A process that reads streams: those of the given numbers, number i of job i modulo their count."""

    def __init__(self, api_url: str, jobs: Sequence[str], numbers: Iterable[int]) -> None:
        context = multiprocessing.get_context("spawn")
        self._receiver, sender = context.Pipe(duplex=False)
        followed = [jobs[number % len(jobs)] for number in numbers]
        context.Process(target=read_streams, args=(api_url, followed, sender), daemon=True).start()
        sender.close()  # ours: so that a client that dies is noticed

    def receive(self) -> Any:
        """Return what it says next: None when all streams are open, then (job, arrivals) of each."""
        return self._receiver.recv()


def read_streams(api_url: str, jobs: Sequence[str], parent: Connection) -> None:
    """Follow each job in a stream of its own, to its end."""
    parent.send(asyncio.run(_read_all(api_url, jobs, lambda: parent.send(None))))


async def _read_all(api_url: str, jobs: Sequence[str], opened: Callable[[], None]) -> list[tuple[str, Arrivals]]:
    waiting = len(jobs)

    async def read(http: httpx.AsyncClient, job: str) -> tuple[str, Arrivals]:
        nonlocal waiting
        seen: list[tuple[int, float]] = []
        async with http.stream("GET", f"/v1/jobs/{job}/events") as response:
            async for line in response.raise_for_status().aiter_lines():
                if line.startswith("id: "):  # an event's last line
                    seen.append((int(line.removeprefix("id: ")), time.time()))
                    if len(seen) == 1:
                        waiting -= 1
                        if waiting == 0:
                            opened()
        return job, seen

    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=api_url, timeout=None, limits=limits) as http:  # noqa: S113
        return await asyncio.gather(*(read(http, job) for job in jobs))


def delays(changes: Mapping[int, float], seen: Arrivals) -> list[float]:
    """Return how late a stream told each change since its first event.

    Args:
        changes: times by version.
        seen: the stream's events.

    Raises:
        StopIteration: it never told the last one.
    """
    opened = seen[0][0]
    return [
        next(arrival for told, arrival in seen if told >= version) - moment
        for version, moment in changes.items()
        if version > opened
    ]


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Return median, 99th percentile and maximum, in milliseconds."""
    return {
        "median": statistics.median(seconds) * 1000,
        "p99": statistics.quantiles(seconds, n=100, method="inclusive")[-1] * 1000,
        "max": max(seconds) * 1000,
    }


def redis_connections(client: redis.Redis, pid: int) -> int:
    """Return how many connections a process has to Redis."""
    ours = {f"{here.laddr.ip}:{here.laddr.port}" for here in psutil.Process(pid).net_connections("tcp")}
    return sum(connection["addr"] in ours for connection in client.client_list())


def idle_reads(client: redis.Redis) -> float:
    """Return how many scripts Redis runs in a second: reading a job is one."""
    before = scripts_run(client)
    time.sleep(IDLE_SECONDS)
    return (scripts_run(client) - before) / IDLE_SECONDS


def scripts_run(client: redis.Redis) -> int:
    """Return how many scripts Redis ever ran."""
    calls: int = client.info("commandstats")["cmdstat_evalsha"]["calls"]
    return calls


if __name__ == "__main__":
    main()
