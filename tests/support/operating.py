"""A service without API and worker, under prefixes of its own: its jobs, its bucket, its operator's commands."""

import asyncio
import itertools
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import redis

from cli.stack import Stack
from jobs.objects.images import ImageStore
from jobs.record import ImageRecord, Job, JobError
from jobs.settings import Settings
from jobs.spec import JobInput
from jobs.store.client import ClientStore
from jobs.store.redis_client import connect, connect_async
from jobs.store.worker import Claim, WorkerStore
from support.redis_keys import remove_keys
from support.s3_access import key_pair, s3_keys

OWNER = "someone"
WORKER = "worker-1"
LOST = JobError(code="worker_lost", message="3 workers were lost", retryable=True)


@dataclass
class Service:
    """Both sides of a service's store, and its bucket."""

    settings: Settings
    environ: dict[str, str]
    redis: redis.Redis
    worker: WorkerStore
    images: ImageStore
    claims: Iterator[int] = field(default_factory=itertools.count)

    def submit(self, owner: str = OWNER, **fields: Any) -> str:
        job_id = f"job_{secrets.token_hex(16)}"
        job_input = JobInput(seed=1, **{"prompt": "a cat", "width": 64, "height": 64, **fields})

        self._as_client(lambda store: store.submit(job_id, owner, job_input, idempotency_key=None, digest="digest"))
        return job_id

    def cancel(self, job_id: str) -> None:
        self._as_client(lambda store: store.cancel(job_id, OWNER))

    def _as_client(self, call: Callable[[ClientStore], Awaitable[object]]) -> None:
        async def connected() -> None:
            async with connect_async(self.settings) as client:
                await call(ClientStore(client, self.settings))

        asyncio.run(connected())

    def job(self, job_id: str) -> Job:
        return Job.from_record(self.redis.hgetall(f"{self.settings.redis_prefix}job:{job_id}"))

    def claim(self) -> Claim:
        claim = self.worker.claim(WORKER, next(self.claims), alone=True)
        assert claim is not None
        return claim

    def dead_letter(self, **fields: Any) -> str:
        """Return a job that has lost three workers."""
        job_id = self.submit(**fields)
        outcomes = [self.worker.lose(self.claim(), LOST) for _ in range(3)]
        assert outcomes == ["queued", "queued", "failed"]
        return job_id

    def upload(self, job_id: str, attempt: int) -> None:
        """Put into the bucket what an attempt puts there."""
        self.images.put_png(self.images.key(job_id, attempt, 0), b"png")
        self.images.put_parameters(job_id, attempt, {})

    def commit(self, claim: Claim) -> str:
        key = self.images.key(claim.job.id, claim.job.attempt, 0)
        image = ImageRecord(index=0, seed=1, width=64, height=64, bytes=3, sha256="00", key=key)
        return self.worker.commit(claim, [image], {}, 0, [])

    def zimage(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "cli.main", *arguments],
            env={**os.environ, **self.environ, **environ},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def zimage_json(self, *arguments: str) -> Any:
        done = self.zimage(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@contextmanager
def service(servers: Stack) -> Iterator[Service]:
    """Give a service of its own on these servers, whose bucket can be used in here; Redis is left as it was."""
    name = f"test-{secrets.token_hex(4)}"
    environ = {**servers.environ(), "ZIMAGE_REDIS_PREFIX": f"{name}:", "ZIMAGE_S3_PREFIX": name}
    settings = Settings(
        redis_url=servers.redis_url, redis_prefix=f"{name}:", s3_endpoint=servers.s3_url, s3_prefix=name
    )
    with connect(settings) as client, s3_keys(*key_pair(servers)):
        yield Service(settings, environ, client, WorkerStore(client, settings), ImageStore(settings))
        remove_keys(client, settings.redis_prefix)
