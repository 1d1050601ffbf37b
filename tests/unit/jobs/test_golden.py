"""What an earlier release left in Redis is read as it was meant."""

from datetime import UTC, datetime
from typing import Any

import pytest

from jobs.model_card import ModelCard
from jobs.record import Job, JobStatus
from jobs.spec import JobInput
from support.golden import GOLDEN

JOBS: dict[str, dict[str, str]] = GOLDEN["jobs"]


def read(name: str) -> Job:
    return Job.from_record(JOBS[name])


@pytest.mark.parametrize("name", JOBS)
def test_a_job_is_read_in_every_state(name: str) -> None:
    job, record = read(name), JOBS[name]
    asked: dict[str, Any] = GOLDEN["idempotency"]["request"]
    if name.endswith("webhook"):
        asked = {**asked, "webhook_url": "https://hooks.example/done?job=1"}
    assert job.input == JobInput.model_validate(asked)
    assert job.status == JobStatus(name.split()[0])
    assert (job.id, job.owner, job.version) == (record["id"], "anonymous", int(record["version"]))
    assert job.created_at == datetime.fromtimestamp(int(record["created_at"]) / 1e6, UTC)
    assert (job.deadline - job.created_at).total_seconds() == 600
    assert job.traceparent == record["traceparent"]
    assert (job.finished_at is None) == job.status.active


def test_what_a_worker_told_of_a_job_is_read() -> None:
    running, succeeded, failed = read("running"), read("succeeded"), read("failed")
    assert (running.attempt, running.losses, running.step, running.worker) == (2, 1, 2, "host-1-abcdef")
    assert running.started_at
    assert [(image.index, image.seed, image.bytes) for image in succeeded.images] == [(0, 7, 4321), (1, 8, 4322)]
    assert [image.steps_skipped for image in succeeded.images] == [0.0, 0.0]  # of which it knew nothing
    assert succeeded.images[1].key == f"jobs/{succeeded.id}/1/1.png"
    assert succeeded.timings.items() >= {"denoise": 0.5, "upload": 0.04}.items()
    assert succeeded.timings["total"] > succeeded.timings["queue"]
    assert succeeded.peak_vram_bytes == 123456
    assert succeeded.warnings[0].startswith("the bundled model draws well at")
    assert failed.error
    assert (failed.error.code, failed.error.retryable) == ("out_of_memory", False)


def test_a_job_that_no_worker_had_is_read() -> None:
    for name in ("queued", "canceled", "expired"):
        assert (read(name).attempt, read(name).worker, read(name).images) == (0, None, [])


def test_a_card_is_read_and_announces_no_ability() -> None:
    card = ModelCard.model_validate_json(GOLDEN["card"])
    assert (card.name, card.min_size, card.max_size, card.default_size) == ("tiny", 64, 1024, 128)
    assert (card.precision, card.quantization, card.load_seconds) == ("float32", None, 1.25)
    assert card.abilities == frozenset()
