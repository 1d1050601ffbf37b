"""A device's thread draws jobs in order, gives them up when told to, and makes do with little memory."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, NoReturn

import pytest
import torch
from prometheus_client import REGISTRY

from jobs.record import Job, JobStatus
from jobs.settings import Settings
from jobs.spec import JobInput
from pipeline import Generation, ZImagePipeline
from pipeline.faults import BrokenDeviceError
from worker.executor.executor import Executor, Loaded
from worker.executor.thread import DeviceThread
from worker.loading import load_pipeline

STEPS = 2


@pytest.fixture(scope="module")
def pipeline() -> ZImagePipeline:
    return load_pipeline(Settings(model="tiny", device="cpu"))[0]


@pytest.fixture(scope="module")
def executor(pipeline: ZImagePipeline) -> Iterator[Executor]:
    thread = DeviceThread(lambda: (pipeline, "tiny", "a commit"))
    yield thread
    thread.close()


def job(owner: str = "someone", **fields: Any) -> Job:
    now = datetime.now(UTC)
    fields = {"num_inference_steps": STEPS, **fields}
    asked = JobInput(prompt="a cat", width=64, height=64, seed=7, **fields)
    return Job(id="job_1", owner=owner, status=JobStatus.RUNNING, version=1, created_at=now, deadline=now, input=asked)


class Asked:
    """Has a job drawn, and remembers what it was told; a test says what it does."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.decoded: list[int] = []
        self.stages: dict[str, float] = {}
        self.when_waiting: Callable[[], None] = lambda: None
        self.at_step: Callable[[int], None] = lambda _step: None
        self.at_decode: Callable[[int], None] = lambda _image: None

    def waiting(self) -> None:
        self.when_waiting()

    def on_step(self, step: int) -> None:
        self.steps.append(step)
        self.at_step(step)

    def on_decode(self, image: int) -> None:
        self.decoded.append(image)
        self.at_decode(image)

    def on_stages(self, seconds: Mapping[str, float]) -> None:
        self.stages |= seconds


@pytest.fixture
def asked() -> Asked:
    return Asked()


def test_it_tells_what_it_has_loaded_and_has_measured_it(executor: Executor) -> None:
    assert replace(executor.loaded, plan=None) == Loaded(
        "tiny", "a commit", device="cpu", precision="float32", quantization=None, product=None, vram_bytes=0
    )
    assert executor.rate.per_second
    assert executor.sign_of_life() is None


def test_no_key_is_quicker_for_what_another_has_asked_for(executor: Executor, asked: Asked) -> None:
    reused = [
        executor.draw(job(owner, guidance_scale=guidance, num_inference_steps=1), asked).prompts_reused
        for owner, guidance in (("alice", 0), ("alice", 0), ("bob", 0), ("bob", 2), ("carol", 2))
    ]
    # Bob's negative prompt, which is empty, is nobody's but his: it counts as encoded, too.
    assert reused == [0, 1, 0, 1, 0]


def test_it_draws_what_the_pipeline_draws_and_tells_each_step_and_image(
    executor: Executor, pipeline: ZImagePipeline, asked: Asked
) -> None:
    signs: list[int | None] = []
    asked.at_step = asked.at_decode = lambda _: signs.append(executor.sign_of_life())
    drawn = executor.draw(job(num_images=2), asked)
    alone = pipeline("a cat", height=64, width=64, num_inference_steps=STEPS, seed=7, num_images=2)
    assert torch.equal(drawn.images, alone)
    assert (asked.steps, asked.decoded) == ([0, 1, 2], [1, 2])
    assert list(asked.stages) == ["text_encode", "denoise", "decode"]
    assert None not in signs
    assert len(set(signs)) == len(signs)
    assert executor.sign_of_life() is None


def blocked(executor: Executor) -> tuple[threading.Thread, Callable[[], None]]:
    """Have a job on the device, which goes on there until it is told to."""
    there, go_on, asked = threading.Event(), threading.Event(), Asked()

    def hold(step: int) -> None:
        if step == 0:
            there.set()
            assert go_on.wait(60)

    asked.at_step = hold
    drawing = threading.Thread(target=executor.draw, args=(job(), asked))
    drawing.start()
    assert there.wait(60)
    return drawing, go_on.set


def test_a_job_that_is_given_up_while_it_waits_is_not_drawn(executor: Executor, asked: Asked) -> None:
    drawing, go_on = blocked(executor)

    def give_up() -> None:
        raise InterruptedError("canceled")

    asked.when_waiting = give_up
    with pytest.raises(InterruptedError):
        executor.draw(job(), asked)
    go_on()
    drawing.join()
    assert executor.draw(job(), Asked()).images.shape == (1, 64, 64, 3)  # behind it, were it there
    assert asked.steps == []


@pytest.mark.parametrize("stage", ["denoise", "decode"])
def test_a_job_is_stopped_in_its_midst_and_the_next_one_drawn(executor: Executor, asked: Asked, stage: str) -> None:
    def give_up(number: int) -> None:
        if number == 1:
            raise InterruptedError("canceled")

    if stage == "denoise":
        asked.at_step = give_up
    else:
        asked.at_decode = give_up
    before = executor.rate.per_second
    with pytest.raises(InterruptedError):
        executor.draw(job(num_images=2), asked)
    assert list(asked.stages)[-1] == stage
    assert asked.stages["denoise"] > 0
    assert executor.rate.per_second == before  # what is given up says nothing of how fast jobs are done
    assert executor.sign_of_life() is None
    assert executor.draw(job(), Asked()).images.shape == (1, 64, 64, 3)


def test_a_job_that_fails_on_a_device_that_does_nothing_more_is_the_device_s_fault(
    executor: Executor, pipeline: ZImagePipeline, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(step: int) -> None:
        monkeypatch.setattr(pipeline, "device", torch.device("meta"))  # which computes nothing
        raise KeyError("something unexpected")

    asked.at_step = fail
    with pytest.raises(BrokenDeviceError):
        executor.draw(job(), asked)


@pytest.mark.parametrize("ends", [True, False])
def test_busy_seconds_are_counted_for_the_owner_however_the_job_ends(
    executor: Executor, asked: Asked, ends: bool
) -> None:
    def at_step(_: int) -> None:
        if not ends:
            raise InterruptedError("canceled")

    asked.at_step = at_step
    owner = f"ends-{ends}"
    with contextlib.nullcontext() if ends else pytest.raises(InterruptedError):
        executor.draw(job(owner), asked)
    assert (REGISTRY.get_sample_value("zimage_key_gpu_seconds_total", {"key": owner}) or 0) > 0


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("Triton Error [CUDA]: out of memory")]
)
def test_images_that_don_t_fit_together_are_drawn_one_at_a_time(
    executor: Executor, asked: Asked, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    together = executor.draw(job(num_images=3), Asked())
    generate = DeviceThread._generate

    def generate_one(self: DeviceThread, job: Job, images: range, *told: Any) -> Generation:
        if len(images) > 1:
            raise error
        return generate(self, job, images, *told)

    monkeypatch.setattr(DeviceThread, "_generate", generate_one)
    alone = executor.draw(job(num_images=3), asked)
    assert torch.equal(alone.images, together.images)
    [warning] = alone.warnings[len(together.warnings) :]
    assert warning == "there was too little memory for all images at once: drawn one at a time"
    assert (asked.steps, asked.decoded) == ([0, 1, 2] * 3, [1, 2, 3])


def test_too_little_memory_for_one_image_is_told(executor: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    def generate(*_: Any) -> Generation:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(DeviceThread, "_generate", generate)
    with pytest.raises(torch.OutOfMemoryError):
        executor.draw(job(num_images=2), Asked())


def test_what_can_t_be_loaded_is_told_by_whoever_starts_it() -> None:
    def load() -> NoReturn:
        raise ValueError("device is 'tpu', expected cpu, cuda or cuda:N")

    with pytest.raises(ValueError, match="device is 'tpu'"):
        DeviceThread(load)
