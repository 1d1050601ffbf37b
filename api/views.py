"""A job as clients see it: the JSON body, its ETag and its headers."""

import hashlib
import re
import time
from datetime import datetime

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from jobs.objects.images import ImageStore
from jobs.record import JobError, JobStatus
from jobs.settings import Settings
from jobs.spec import INPUT_EXAMPLE, JobInput
from jobs.store.answers import Found

EXAMPLE: dict[str, JsonValue] = {
    "id": "job_3f9c1e8a4b7d42d0a1c5e6f708192a3b",
    "status": "succeeded",
    "created_at": "2026-01-05T12:00:00.000000Z",
    "started_at": "2026-01-05T12:00:00.004000Z",
    "finished_at": "2026-01-05T12:00:00.706000Z",
    "attempt": 1,
    "cancel_requested": False,
    "queue": None,
    "progress": {"step": 8, "total": 8},
    "input": {**INPUT_EXAMPLE, "seed": 7},
    "images": [
        {
            "index": 0,
            "seed": 7,
            "width": 1024,
            "height": 1024,
            "bytes": 1400123,
            "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            "steps_skipped": 0.0,
            "url": "https://s3.example/zimage/jobs/job_3f9c1e8a4b7d42d0a1c5e6f708192a3b/1/0.png?X-Amz-Signature=5d41",
        }
    ],
    "timings": {
        "queue": 0.004,
        "device_wait": 0.001,
        "text_encode": 0.008,
        "denoise": 0.61,
        "decode": 0.04,
        "png": 0.015,
        "upload": 0.02,
        "other": 0.008,
        "total": 0.706,
    },
    "peak_vram_bytes": 22116564992,
    "warnings": [],
    "error": None,
    "worker": "gpu-1-4242-9f86d0",
}
URLS_EXAMPLE: dict[str, JsonValue] = {
    "self": "http://127.0.0.1:8000/v1/jobs/job_3f9c1e8a4b7d42d0a1c5e6f708192a3b",
    "cancel": "http://127.0.0.1:8000/v1/jobs/job_3f9c1e8a4b7d42d0a1c5e6f708192a3b/cancel",
    "events": "http://127.0.0.1:8000/v1/jobs/job_3f9c1e8a4b7d42d0a1c5e6f708192a3b/events",
}


class QueueView(BaseModel):
    """Where a queued job stands."""

    position: int = Field(description="1 is the next to be started.")
    eta_seconds: float | None = Field(description="Until it starts; null while no worker has been measured.")


class ProgressView(BaseModel):
    """Denoising steps done."""

    step: int
    total: int


class ImageView(BaseModel):
    """A finished image."""

    index: int
    seed: int = Field(description="Draws this image alone.")
    width: int
    height: int
    bytes: int
    sha256: str
    steps_skipped: float = Field(
        description="Denoising steps that skipped layers, by the job's `step_cache`; with guidance a prompt's and a "
        "negative prompt's each count half."
    )
    url: str = Field(
        description="Presigned: needs no credentials and ends after a while; fetch the job again for another."
    )


class UrlsView(BaseModel):
    """Where to go from here."""

    self: str
    cancel: str
    events: str


class JobBody(BaseModel):
    """A job, without the addresses that depend on how the API is reached."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    id: str
    status: JobStatus
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    attempt: int
    cancel_requested: bool = Field(description="Whether its client wants it canceled; it ends as canceled soon.")
    queue: QueueView | None
    progress: ProgressView
    input: JobInput
    images: list[ImageView]
    timings: dict[str, float] = Field(
        description="Seconds of the job's stages, in their order; they add up to the last one, total. queue: until a "
        "worker claims it; lost: attempts that came to nothing; device_wait: until the worker's device begins; "
        "text_encode, denoise, decode, png, upload; other: what is in none of them."
    )
    peak_vram_bytes: int
    warnings: list[str] = Field(description="What whoever wrote the request should know; some of it from the start.")
    error: JobError | None
    worker: str | None


class JobView(JobBody):
    """A job."""

    model_config = ConfigDict(json_schema_extra={"examples": [{**EXAMPLE, "urls": URLS_EXAMPLE}]})

    urls: UrlsView


def job_view(found: Found, images: ImageStore, request: Request) -> JobView:
    """Return a job as clients see it, with its images' URLs signed now."""
    own = str(request.url_for("get_job", job_id=found.job.id))
    urls = UrlsView(self=own, cancel=f"{own}/cancel", events=f"{own}/events")
    return JobView(**dict(job_body(found, images)), urls=urls)


def job_body(found: Found, images: ImageStore) -> JobBody:
    """Return a job as webhooks tell it, with its images' URLs signed now."""
    job, place = found.job, found.place
    return JobBody(
        id=job.id,
        status=job.status,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        attempt=job.attempt,
        cancel_requested=job.cancel_requested,
        queue=QueueView(position=place.position, eta_seconds=place.eta_seconds) if place else None,
        progress=ProgressView(step=job.step, total=job.input.num_inference_steps),
        input=job.input,
        images=[ImageView(**image.model_dump(exclude={"key"}), url=images.presign(image.key)) for image in job.images],
        timings=job.timings,
        peak_vram_bytes=job.peak_vram_bytes,
        warnings=job.warnings,
        error=job.error,
        worker=job.worker,
    )


def etag(found: Found, settings: Settings) -> str:
    """Return the ETag of a job's view.

    It changes with the record, with the place in the queue, and twice in the life of a presigned URL, so that a 304
    never keeps URLs alive in a client that are about to end.
    """
    window = int(time.time() / (settings.url_ttl / 2)) if found.job.images else 0
    position = found.place.position if found.place else 0
    state = f"{found.job.id} {found.job.version} {position} {window}"
    return f'W/"{hashlib.sha256(state.encode()).hexdigest()[:24]}"'


def etag_matches(if_none_match: str, current: str) -> bool:
    """Compare an `If-None-Match` header with an ETag, weakly (RFC 9110, section 13.1.2)."""
    tags = re.findall(r'"[^"]*"', if_none_match)
    return if_none_match.strip() == "*" or current.removeprefix("W/") in tags


def pending_headers(found: Found) -> dict[str, str]:
    """Return `Retry-After` for a job that has not ended: about when a look is worth it."""
    if not found.job.status.active:
        return {}
    eta = found.place.eta_seconds if found.place else None
    return {"Retry-After": str(min(30, max(1, round(eta or 1))))}
