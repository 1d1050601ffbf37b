"""A job's life in the worker, on real servers, drawn by an executor that has the interface and nothing else."""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cli.stack import Stack
from jobs.model_card import ModelCard, size_limits
from jobs.objects.images import ImageStore
from jobs.record import ImageRecord, Job, JobError, JobStatus
from pipeline import Generation
from support.operating import WORKER, Service, service
from worker.claims.admission import Admission
from worker.claims.departure import BROKEN, Departure
from worker.claims.ending import Ending
from worker.claims.leases import Leases
from worker.claims.progress import ProgressReporter
from worker.delivery import Delivery
from worker.executor.executor import Listener, Loaded
from worker.executor.rate import Rate
from worker.held import HeldJob
from worker.observers.fan_out import FanOut
from worker.observers.observer import Observer
from worker.run import JobRunner

CARD = ModelCard(**size_limits("tiny").model_dump(), name="tiny", precision="float32", load_seconds=1.0)
STAGES = ("text_encode", "denoise", "decode")


class Drawer:
    """An executor that draws black; a test says when it is free, and what it does in each step and for each image."""

    loaded = Loaded("tiny", None, device="cpu", precision="float32", quantization=None, product=None, vram_bytes=0)

    def __init__(self) -> None:
        self.rate = Rate()
        self.free: Callable[[Job], bool] = lambda _job: True
        self.step: Callable[[Job], None] = lambda _job: None
        self.decode: Callable[[Job], None] = lambda _job: None

    def draw(self, job: Job, listener: Listener) -> Generation:
        while not self.free(job):
            listener.waiting()
        began, timings = time.monotonic(), dict.fromkeys(STAGES, 0.0)
        try:
            for step in range(job.input.num_inference_steps + 1):
                listener.on_step(step)
                self.step(job)
            for image in range(job.input.num_images):
                listener.on_decode(image + 1)
                self.decode(job)
        finally:
            timings["denoise"] = time.monotonic() - began
            listener.on_stages(timings)
        images = torch.zeros(job.input.num_images, job.input.height, job.input.width, 3, dtype=torch.uint8)
        return Generation(
            images, timings, 0, warnings=[], prompts=1, prompts_reused=0, steps_skipped=[0.0] * len(images)
        )

    def sign_of_life(self) -> int | None:
        return None

    def close(self) -> None:
        pass


class Points(Observer):
    """Remembers which points of jobs' lives were told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def claimed(self, held: HeldJob) -> None:
        self.told.append("claimed")
        self.held = held

    def begun(self, held: HeldJob) -> None:
        self.told.append(f"begun {sorted(held.stages)}")

    def drawn(self, _held: HeldJob) -> None:
        self.told.append("drawn")

    def delivered(self, _held: HeldJob, _generation: Generation) -> None:
        self.told.append("delivered")

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
def worker(servers: Stack) -> Iterator[Worker]:
    with service(servers) as own:
        drawer, points = Drawer(), (Points(), Points())
        observers = FanOut(*points)
        delivery = Delivery(own.images, "tiny", seconds=30)
        leases = Leases(own.worker, WORKER, CARD, drawer.rate, delivery.trouble, lease_seconds=30)
        departure = Departure(leases, own.worker, observers)
        admission = Admission(own.worker, WORKER, CARD, leases, departure, delivery.ready)
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
    points = ["claimed", "begun ['device_wait']", "drawn", "delivered", "committed 2", "ended succeeded"]
    assert told(worker) == points
    job = worker.service.job(job_id)
    assert (job.status, len(job.images), list(job.stages)) == (
        JobStatus.SUCCEEDED,
        2,
        ["device_wait", *STAGES, "png", "upload"],
    )
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
    assert told(worker) == ["claimed", "begun ['device_wait']", "failed invalid_input", "ended failed"]
    error = worker.service.job(job_id).error
    assert error == JobError(code="invalid_input", message="width is 65, expected a multiple of 16", retryable=False)


def test_a_job_that_its_client_cancels_has_not_failed(worker: Worker) -> None:
    worker.drawer.step = lambda job: worker.service.cancel(job.id)
    job_id = worker.service.submit(num_inference_steps=50)
    assert worker.run()
    assert told(worker) == ["claimed", "begun ['device_wait']", "ended canceled"]
    job = worker.service.job(job_id)
    assert (job.status, list(job.stages)) == (JobStatus.CANCELED, ["device_wait", *STAGES])


def test_a_job_that_is_canceled_before_the_device_begins_has_only_waited(worker: Worker) -> None:
    def cancel(job: Job) -> bool:
        worker.service.cancel(job.id)
        return False

    worker.drawer.free = cancel
    job_id = worker.service.submit()
    assert worker.run()
    assert told(worker) == ["claimed", "ended canceled"]
    assert list(worker.service.job(job_id).timings) == ["queue", "device_wait", "other", "total"]


def test_a_job_that_is_canceled_while_it_is_decoded_brings_no_image_to_s3(worker: Worker) -> None:
    worker.drawer.decode = lambda job: worker.service.cancel(job.id)
    worker.service.submit(num_images=8)
    assert worker.run()
    assert told(worker) == ["claimed", "begun ['device_wait']", "ended canceled"]
    assert list(worker.service.images.uploads()) == [[]]


def test_a_job_that_is_canceled_between_two_uploads_leaves_no_image_in_s3(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = ImageStore.put_png

    def put_and_cancel(images: ImageStore, key: str, png: bytes) -> None:
        put(images, key, png)
        worker.service.cancel(job_id)
        worker.points[0].held.verdict = "cancel"  # as the next renewal of its lease would tell

    monkeypatch.setattr(ImageStore, "put_png", put_and_cancel)
    job_id = worker.service.submit(num_images=2)
    assert worker.run()
    assert told(worker) == ["claimed", "begun ['device_wait']", "drawn", "ended canceled"]
    assert list(worker.service.images.uploads()) == [[]]


@pytest.mark.parametrize("steps", [1, 3])
def test_the_next_job_is_claimed_when_the_last_image_is_decoded(worker: Worker, steps: int) -> None:
    first = worker.service.submit(num_inference_steps=steps, num_images=2)
    second = worker.service.submit()
    neighbour = threading.Thread(target=worker.run)
    seen: list[JobStatus] = []

    def look(job: Job) -> None:
        if job.id == first:
            if not seen:
                neighbour.start()
            time.sleep(0.05)  # in which it would be claimed
            seen.append(worker.service.job(second).status)

    def decode(job: Job) -> None:
        if job.id == first and len(seen) == steps + 2:  # the first image is done
            while worker.service.job(second).status == JobStatus.QUEUED:
                time.sleep(0.01)
        else:
            look(job)

    worker.drawer.step, worker.drawer.decode = look, decode
    assert worker.run()
    neighbour.join()
    assert seen == [JobStatus.QUEUED] * (steps + 2)
    assert {worker.service.job(job_id).status for job_id in (first, second)} == {JobStatus.SUCCEEDED}


def test_the_wait_for_the_device_is_a_stage_and_not_lost_in_the_rest(worker: Worker) -> None:
    asked: list[float] = []

    def free(_job: Job) -> bool:
        asked.append(time.monotonic())
        time.sleep(0.05)
        return len(asked) > 4

    worker.drawer.free = free
    job_id = worker.service.submit()
    assert worker.run()
    assert worker.service.job(job_id).timings["device_wait"] >= asked[-1] - asked[0]


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
    assert told(worker) == ["claimed", "begun ['device_wait']", "ended queued"]
    assert worker.service.job(job_id).losses == 1
