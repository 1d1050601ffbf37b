"""A job as clients see it: the JSON body, its ETag and its headers."""

import hashlib
import re
import time
from datetime import datetime

from fastapi import Request
from pydantic import BaseModel, Field

from jobs.client_store import Found
from jobs.images import ImageStore
from jobs.models import JobError, JobInput, JobStatus
from jobs.settings import Settings


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

    id: str
    status: JobStatus
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    attempt: int
    queue: QueueView | None
    progress: ProgressView
    input: JobInput
    images: list[ImageView]
    timings: dict[str, float] = Field(description="Seconds: queue, text_encode, denoise, decode, png, upload, total.")
    peak_vram_bytes: int
    warnings: list[str]
    error: JobError | None
    worker: str | None


class JobView(JobBody):
    """A job."""

    urls: UrlsView


def job_view(found: Found, images: ImageStore, request: Request) -> JobView:
    """Return a job as clients see it, with its images' URLs signed now."""

    def url(route: str) -> str:
        return str(request.url_for(route, job_id=found.job.id))

    urls = UrlsView(self=url("get_job"), cancel=url("cancel_job"), events=url("job_events"))
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
