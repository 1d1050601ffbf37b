"""A job's life in the worker, on real servers, drawn by an executor that has the interface and nothing else."""

import os
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cli.stack import Stack
from jobs.model_card import ModelCard, size_limits
from jobs.record import ImageRecord, Job, JobError, JobStatus
from pipeline import Generation
from support.operating import WORKER, Service, service
from worker.claims.admission import Admission
from worker.claims.departure import BROKEN, Departure
from worker.claims.ending import Ending
from worker.claims.leases import Leases
from worker.claims.progress import ProgressReporter
from worker.delivery import Delivery
from worker.executor.executor import Loaded
from worker.executor.rate import Rate
from worker.held import HeldJob
from worker.observers.fan_out import FanOut
from worker.observers.observer import Observer
from worker.run import JobRunner

CARD = ModelCard(**size_limits("tiny").model_dump(), name="tiny", precision="float32", load_seconds=1.0)
STAGES = {"text_encode": 0.0, "denoise": 0.0, "decode": 0.0}


class Drawer:
    """An executor that draws black, or does what a test wants instead of each step."""

    loaded = Loaded("tiny", device="cpu", precision="float32", quantization=None, vram_bytes=0)

    def __init__(self) -> None:
        self.rate = Rate()
        self.step: Callable[[Job], None] = lambda _job: None

    def draw(self, job: Job, waiting: Callable[[], None], on_step: Callable[[int], None]) -> Generation:
        waiting()
        for step in range(job.input.num_inference_steps + 1):
            on_step(step)
            self.step(job)
        images = torch.zeros(job.input.num_images, job.input.height, job.input.width, 3, dtype=torch.uint8)
        return Generation(images, STAGES, peak_vram_bytes=0, warnings=[], prompts=1, prompts_reused=0)

    def sign_of_life(self) -> int | None:
        return None

    def close(self) -> None:
        pass


class Points(Observer):
    """Remembers which points of jobs' lives were told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def claimed(self, _held: HeldJob) -> None:
        self.told.append("claimed")

    def drawn(self, _held: HeldJob, _generation: Generation) -> None:
        self.told.append("drawn")

    def delivered(self, _held: HeldJob, _generation: Generation, seconds: dict[str, float]) -> None:
        self.told.append(f"delivered {sorted(seconds)}")

    def committed(self, _held: HeldJob, images: Sequence[ImageRecord]) -> None:
        self.told.append(f"committed {len(images)}")

    def failed(self, _held: HeldJob, error: JobError, _exception: Exception) -> None:
        self.told.append(f"failed {error.code}")

    def ended(self, _held: HeldJob, outcome: str) -> None:
        self.told.append(f"ended {outcome}")


class Worker(SimpleNamespace):
    """A worker's parts, without the process around them."""

    service: Service
    drawer: Drawer
    points: tuple[Points, Points]
    admission: Admission
    run: Callable[[], bool]


@pytest.fixture
def worker(servers: Stack, monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)  # it keeps credentials
    for name, value in servers.environ().items():
        monkeypatch.setenv(name, value)  # the bucket's key pair
    with service(servers) as own:
        drawer, points = Drawer(), (Points(), Points())
        observers = FanOut(*points)
        delivery = Delivery(own.images, "tiny", seconds=30)
        leases = Leases(own.worker, WORKER, CARD, drawer.rate, delivery.trouble, lease_seconds=30)
        departure = Departure(leases, own.worker, observers)
        admission = Admission(own.worker, WORKER, frozenset(), leases, departure, delivery.ready)
        ending = Ending(own.worker, own.images, departure, observers, hold_seconds=30)
        runner = JobRunner(admission, drawer, ProgressReporter(own.worker), delivery, ending, observers)
        leases.start()
        yield Worker(service=own, drawer=drawer, points=points, admission=admission, run=runner.run)
        leases.stop()


def told(worker: Worker) -> list[str]:
    """Return what the observers were told: each of them the same."""
    first, second = worker.points
    assert first.told == second.told
    return first.told


def test_each_point_of_a_job_s_life_is_told_once(worker: Worker) -> None:
    job_id = worker.service.submit(num_images=2)
    assert worker.run()
    assert told(worker) == ["claimed", "drawn", "delivered ['png', 'upload']", "committed 2", "ended succeeded"]
    job = worker.service.job(job_id)
    assert (job.status, len(job.images), set(job.stages)) == (JobStatus.SUCCEEDED, 2, {*STAGES, "png", "upload"})
    assert not worker.run()  # none waits
    worker.admission.finish()  # returns: none is at hand


def test_a_worker_that_drains_takes_no_job(worker: Worker) -> None:
    job_id = worker.service.submit()
    worker.admission.draining.set()
    assert not worker.run()
    assert worker.service.job(job_id).status == JobStatus.QUEUED


def test_a_job_that_fails_is_told_with_why(worker: Worker) -> None:
    def refuse(_job: Job) -> None:
        raise ValueError("width is 65, expected a multiple of 16")

    worker.drawer.step = refuse
    job_id = worker.service.submit()
    assert worker.run()
    assert told(worker) == ["claimed", "failed invalid_input", "ended failed"]
    error = worker.service.job(job_id).error
    assert error == JobError(code="invalid_input", message="width is 65, expected a multiple of 16", retryable=False)


def test_a_job_that_its_client_cancels_has_not_failed(worker: Worker) -> None:
    worker.drawer.step = lambda job: worker.service.cancel(job.id)
    job_id = worker.service.submit(num_inference_steps=50)
    assert worker.run()
    assert told(worker) == ["claimed", "ended canceled"]
    assert worker.service.job(job_id).status == JobStatus.CANCELED


def test_a_job_that_breaks_the_device_is_told_by_whoever_hands_it_back(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave(code: int) -> None:
        raise SystemExit(code)

    def break_device(_job: Job) -> Any:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(os, "_exit", leave)
    worker.drawer.step = break_device
    job_id = worker.service.submit()
    with pytest.raises(SystemExit) as left:
        worker.run()
    assert left.value.code == BROKEN
    assert told(worker) == ["claimed", "ended queued"]
    assert worker.service.job(job_id).losses == 1
