"""A stack under load to which something is done: what runs on it now, what was hit, and when it was away."""

import contextlib
import os
import signal
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import redis

from bench.chaos.accounting import Load, wait_for
from bench.chaos.nursery import child_of
from bench.chaos.s3_proxy import S3Proxy
from cli.stack import Stack

PATIENCE = 150.0  # seconds to wait for what must come; workers start slowly on a machine that is busy


@dataclass
class Scene:
    """A running stack with a load on it, and what was done to it."""

    stack: Stack
    load: Load
    folder: Path
    proxy: S3Proxy
    environ: Mapping[str, str]
    hits: list[tuple[float, str | None]] = field(default_factory=list)  # Unix time, job
    outages: list[tuple[float, float]] = field(default_factory=list)  # Unix times of begin and end
    expected_lost: set[str] = field(default_factory=set)
    notes: dict[str, Any] = field(default_factory=dict)
    spared: Collection[int] = ()  # process ids of workers that nothing is done to
    pause: float = 0.0  # seconds after each outage, for the throughput to be measured

    @property
    def redis(self) -> redis.Redis:
        """A connection to the stack's Valkey."""
        return redis.Redis.from_url(self.stack.redis_url, decode_responses=True, socket_timeout=5)

    @property
    def lease(self) -> float:
        """Seconds."""
        return float(self.environ["ZIMAGE_LEASE_SECONDS"])

    def workers(self) -> list[int]:
        """Return the process ids of the workers that may be struck; one that just died is not among them."""
        children = map(child_of, self.stack.pids()["workers"])
        return [pid for pid in children if pid and pid not in self.spared]

    def freeze_busy(self, but: Collection[int] = ()) -> int:
        """Stop a worker that holds jobs, none of which was hit before, and return its process id.

        Args:
            but: process ids of workers that are passed over.
        """
        found: list[int] = []

        def frozen() -> bool:
            for pid in set(self.workers()) - set(but):
                with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):  # it may just have ended
                    if self.new_jobs(pid):
                        freeze(pid)
                        if self.new_jobs(pid):
                            found.append(pid)
                            return True
                        os.kill(pid, signal.SIGCONT)
            return False

        wait_for(frozen, PATIENCE, "work")
        return found[0]

    def running(self, pid: int | None = None) -> list[str]:
        """Return the ids of the jobs that run, on one worker or on all."""
        with self.redis as client:
            ids = client.zrange("zimage:running", 0, -1)
            names = [client.hget(f"zimage:job:{job_id}", "worker") for job_id in ids]
        return [job_id for job_id, name in zip(ids, names, strict=True) if pid is None or f"-{pid}-" in (name or "")]

    def new_jobs(self, pid: int | None = None) -> list[str]:
        """Like `running`, but none at all if one of them was hit before: three losses would fail it."""
        jobs = self.running(pid)
        return [] if {job for _, job in self.hits} & set(jobs) else jobs

    def strike(self, jobs: Sequence[str | None]) -> None:
        """Note which jobs a fault hit just now."""
        self.hits += [(time.time(), job) for job in jobs]

    @property
    def jobs_hit(self) -> int:
        """How many jobs were hit, each counted once; and messages, which belong to no job."""
        ids = [job for _, job in self.hits]
        return len(set(filter(None, ids))) + ids.count(None)

    def outage(self, begin: float, end: float) -> None:
        """Note that a server was away from `begin` to `end` (Unix times), and return when work goes on."""
        self.outages.append((begin, end))
        self.wait_for_progress(10)
        time.sleep(self.pause)

    def wait_for_progress(self, jobs: int = 5, seconds: float = PATIENCE) -> None:
        """Return when so many more jobs have ended."""
        begin = time.time() * 1e6

        def ended() -> bool:
            try:
                with self.redis as client:
                    return int(client.zcount("zimage:ended", begin, "+inf")) >= jobs
            except redis.RedisError:
                return False

        wait_for(ended, seconds, f"the end of {jobs} more jobs")


def freeze(pid: int) -> None:
    """Stop a process and return when it stands still: what is then read about it stays true."""
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED, 5, f"the stop of {pid}")
