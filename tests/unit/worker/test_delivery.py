"""What a worker does with a picture that S3 does not take, and with errors that nobody expected."""

import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from botocore.exceptions import EndpointConnectionError

from jobs.objects.images import ImageStore
from jobs.record import Job, JobStatus
from jobs.settings import Settings
from jobs.spec import JobInput
from jobs.store.worker import Claim
from pipeline import Generation
from support.s3_access import s3_keys
from worker.caretaker import look_for_work
from worker.delivery import Delivery
from worker.held import HeldJob, StopJobError

DRAWN = Generation(torch.zeros(2, 16, 16, 3, dtype=torch.uint8), {}, 0, [], 1, 0, [0.0, 0.0])


def held_job(timeout_seconds: int | None = None) -> HeldJob:
    now = datetime.now(UTC)
    wanted = JobInput(prompt="a cat", seed=1, num_images=2, timeout_seconds=timeout_seconds)
    running = {"status": JobStatus.RUNNING, "attempt": 1, "worker": "worker-1", "started_at": now}
    job = Job(id="job_1", owner="someone", version=1, created_at=now, deadline=now, input=wanted, **running)
    return HeldJob(Claim(job, "worker-1"))


@pytest.fixture
def unreachable() -> Iterator[ImageStore]:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    with s3_keys():
        yield ImageStore(Settings(s3_endpoint=f"http://127.0.0.1:{port}"), attempts=1)


def test_a_picture_is_held_no_longer_once_its_job_was_canceled(unreachable: ImageStore) -> None:
    held = held_job()
    threading.Timer(0.5, lambda: setattr(held, "verdict", "cancel")).start()
    with pytest.raises(StopJobError) as stopped:
        Delivery(unreachable, "tiny", seconds=600).deliver(held, DRAWN)
    assert stopped.value.reason == "cancel"


def test_a_picture_is_held_no_longer_than_its_job_may_take(unreachable: ImageStore) -> None:
    with pytest.raises(StopJobError) as stopped:
        Delivery(unreachable, "tiny", seconds=600).deliver(held_job(timeout_seconds=1), DRAWN)
    assert stopped.value.reason == "deadline"


def test_a_picture_that_s3_never_takes_is_given_up(unreachable: ImageStore) -> None:
    with pytest.raises(EndpointConnectionError):
        Delivery(unreachable, "tiny", seconds=0.5).deliver(held_job(), DRAWN)


def test_work_is_looked_for_after_an_error_too() -> None:
    done = threading.Event()
    outcomes = [RuntimeError("unexpected"), False]

    def run() -> bool:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        done.set()
        return outcome

    def wait_until_work_is_missed() -> None:
        if not outcomes:
            time.sleep(3600)

    leases: Any = SimpleNamespace(wait_until_work_is_missed=wait_until_work_is_missed, held=list)
    look_for_work(leases, run)
    assert done.wait(30)
