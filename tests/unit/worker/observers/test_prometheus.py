"""What Prometheus is told of a job's life."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
import torch
from prometheus_client import REGISTRY

from jobs.record import ImageRecord, Job, JobStatus
from jobs.spec import JobInput
from jobs.store.worker import Claim
from pipeline import Generation
from worker.held import HeldJob
from worker.metrics import size_label
from worker.observers.prometheus import Prometheus

NOW = datetime.now(UTC)
DRAWN = Generation(torch.zeros(1), {"denoise": 2.0}, 7, [], prompts=2, prompts_reused=1, steps_skipped=[2.5])
IMAGE = ImageRecord(index=0, seed=1, width=64, height=128, bytes=3, sha256="00", key="key")


@pytest.fixture
def held() -> HeldJob:
    asked = JobInput(prompt="a cat", width=64, height=128)
    job = Job(
        id="job_1",
        owner="the observed",
        status=JobStatus.RUNNING,
        version=2,
        created_at=NOW - timedelta(seconds=3),
        started_at=NOW,
        deadline=NOW,
        input=asked,
    )
    return HeldJob(Claim(job, "worker-1"))


def growth(act: Callable[[], None], *series: tuple[str, dict[str, str]]) -> list[float]:
    def values() -> list[float]:
        return [REGISTRY.get_sample_value(name, labels) or 0 for name, labels in series]

    before = values()
    act()
    return [after - was for was, after in zip(before, values(), strict=True)]


def test_the_wait_ends_when_the_device_begins(held: HeldJob) -> None:
    waits = ("zimage_queue_wait_seconds_count", {}), ("zimage_queue_wait_seconds_sum", {})
    assert growth(lambda: Prometheus().claimed(held), *waits) == [0, 0]
    held.spent({"device_wait": 2.0})
    assert growth(lambda: Prometheus().begun(held), *waits) == [1, 5]


def test_stages_and_prompts_are_counted_once_the_images_are_delivered(held: HeldJob) -> None:
    held.spent({"device_wait": 3, "denoise": 2, "png": 0.5, "upload": 0.25})
    assert growth(
        lambda: Prometheus().delivered(held, DRAWN),
        ("zimage_stage_seconds_sum", {"stage": "device_wait"}),
        ("zimage_stage_seconds_sum", {"stage": "denoise"}),
        ("zimage_stage_seconds_sum", {"stage": "png"}),
        ("zimage_stage_seconds_sum", {"stage": "upload"}),
        ("zimage_prompts_total", {"features": "encoded"}),
        ("zimage_prompts_total", {"features": "reused"}),
        ("zimage_steps_total", {"layers": "computed"}),
        ("zimage_steps_total", {"layers": "skipped"}),
    ) == [3, 2, 0.5, 0.25, 1, 1, 5.5, 2.5]
    assert REGISTRY.get_sample_value("zimage_vram_peak_bytes") == 7


def test_images_are_counted_by_size_and_by_key(held: HeldJob) -> None:
    key = {"key": "the observed"}
    assert growth(
        lambda: Prometheus().committed(held, [IMAGE, IMAGE]),
        ("zimage_images_total", {"size": "<=0.07MP"}),
        ("zimage_key_images_total", key),
        ("zimage_key_pixels_total", key),
    ) == [2, 2, 2 * 64 * 128]


def test_sizes_are_few_words_whatever_is_asked_for() -> None:
    sides = range(64, 2049, 16)
    assert {size_label(width, height) for width in sides for height in sides} == {
        *("<=0.07MP", "<=0.3MP", "<=0.6MP", "<=1.1MP", "<=2.4MP", ">2.4MP")
    }
    usual = ((128, 128), (256, 256), (512, 512), (768, 768), (1024, 1024), (1152, 896), (1536, 1536), (2048, 2048))
    assert [size_label(*sides) for sides in usual] == [
        *("<=0.07MP", "<=0.07MP", "<=0.3MP", "<=0.6MP", "<=1.1MP", "<=1.1MP", "<=2.4MP", ">2.4MP")
    ]


@pytest.mark.parametrize(
    ("outcome", "over"),
    [("succeeded", 1), ("failed", 1), ("canceled", 1), ("queued", 0), ("refused", 0), ("lost", 0)],
)
def test_each_attempt_is_counted_and_the_time_of_jobs_that_are_over(held: HeldJob, outcome: str, over: int) -> None:
    assert growth(
        lambda: Prometheus().ended(held, outcome),
        ("zimage_job_attempts_total", {"outcome": outcome}),
        ("zimage_job_seconds_count", {"outcome": outcome}),
    ) == [1, over]
