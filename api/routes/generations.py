"""`/v1/images/generations`: OpenAI's images API over the queue, for clients that wait for their pictures."""

import json
from collections.abc import Sequence

from fastapi import APIRouter, Depends, Request, Response

from api.deps import KeyDep, OwnerDep, ServicesDep, held
from api.document import FAULT, RATE_LIMIT, REPLAYED, STREAMS, SUBMITTED, WARNINGS
from api.following import patient
from api.metrics import CLIENT_LEFT
from api.openai.pictures import PicturesAnswer
from api.openai.refusals import openai_error_responses
from api.openai.request import ImageData, ImagesRequest, ImagesResponse, placed_here
from api.problems import ProblemError, unavailable
from api.served_model import served_model
from api.submission import IdempotencyKey, submit
from api.waiting import unless_disconnected, waited
from jobs.objects.images import ImageStore
from jobs.objects.refusals import STORAGE_ERRORS
from jobs.record import Job, JobStatus

router = APIRouter(prefix="/v1/images", tags=["openai"])

FINAL = {"X-Should-Retry": "false"}  # OpenAI's clients heed it: they retry 409 and 5xx by themselves otherwise
CANCEL_SECONDS = 300.0  # that Redis may be away before the job of a client that left is drawn all the same

ERRORS = openai_error_responses(
    *SUBMITTED,
    STREAMS,
    (404, "model_not_found", "model: there is no model other: what is served is called tiny, Tongyi-MAI/Z-Image-Turbo"),
    (409, "job_canceled", "job job_… was canceled"),
    (422, "invalid_request", "steps: no such field: use num_inference_steps"),
    FAULT,
    (500, "out_of_memory", "job job_… failed: the GPU has too little memory for this job: ask for a smaller size"),
    (503, "resolver_unavailable", "/webhook_url: hooks.example can't be resolved now: send the request again"),
    (503, "storage_unavailable", "job job_… is done, but its images can't be read now: fetch them at /v1/jobs/job_…"),
    (
        503,
        "too_many_answers",
        "job job_… is done, but too many answers with images are under way: fetch them at /v1/jobs/job_…",
    ),
    (503, "closing", "this process of the service is ending: send the request again"),
    (504, "job_expired", "job job_… was not started in time"),
    (504, "deadline_exceeded", "job job_… failed: timeout_seconds passed before the job was done"),
)


@router.post(
    "/generations",
    dependencies=[Depends(held)],
    response_model=ImagesResponse,
    responses={200: {"headers": {**REPLAYED, **RATE_LIMIT, **WARNINGS}}, **ERRORS},
)
async def generate_images(
    body: ImagesRequest,
    request: Request,
    services: ServicesDep,
    owner: OwnerDep,
    key: KeyDep,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Draw images as a job like any other, and answer when it has ended.

    A client that leaves cancels its job, and so does a process of the service that ends meanwhile (503 `closing`); not
    so with an `Idempotency-Key`, by which the client can come back for the same job.
    """
    served = await served_model(services)
    if body.model is not None:
        served.check_name(body.model)
    job_request = body.job_request(served.sizes)
    try:
        submission = await submit(services, owner, key, job_request, idempotency_key)
    except ProblemError as error:
        error.errors = error.errors and placed_here(error.errors)
        raise
    job_id = submission.found.job.id
    found = await unless_disconnected(request, waited(services, submission.found))
    if found is None or found.job.status.active:  # the client has left, or this process is to end
        if idempotency_key is None:
            patience = CANCEL_SECONDS if found is None else 0  # who is still there is not kept waiting
            await patient(patience)(services.store.cancel, job_id, owner)
        if found is None:
            return Response(status_code=CLIENT_LEFT)
        detail = "this process of the service is ending: send the request again"
        raise unavailable("closing", detail, seconds=1, headers=submission.headers)
    _check_success(found.job, submission.headers, again=idempotency_key is None)
    # What has no effect is no part of the job: a request that comes back for it may say other things.
    warnings = [*body.warnings, *found.job.warnings]
    headers = {**submission.headers, **_warning_headers(warnings)}
    final = {**submission.headers, **FINAL}
    fetch = f"fetch them at /v1/jobs/{job_id}"
    told = f"job {job_id} is done, but its images can't be read now: {fetch}"
    away = ProblemError(503, "storage_unavailable", told, headers=final)
    if body.answered_by == "url":
        try:
            urls = await services.signing.run(_urls, found.job, services.images)
        except STORAGE_ERRORS:
            raise away from None
        content = _answer(found.job, warnings, urls).model_dump_json(exclude_none=True)
        return Response(content, media_type="application/json", headers=headers)
    told = f"job {job_id} is done, but too many answers with images are under way: {fetch}"
    # By its Idempotency-Key the request comes back for this job; without one it would have it drawn again.
    busy = unavailable("too_many_answers", told, headers=submission.headers if idempotency_key else final)
    answer = _answer(found.job, warnings, [])
    return PicturesAnswer(services, owner, answer, found.job.images, headers, busy=busy, away=away)


def _check_success(job: Job, headers: dict[str, str], *, again: bool) -> None:
    """Raise what a job's end means to a client that waited for its images.

    Args:
        job: that has ended.
        headers: of the answer.
        again: whether the same request makes another job; with an `Idempotency-Key` it is answered with this one.
    """
    final = {**headers, **FINAL}
    match job.status:
        case JobStatus.CANCELED:
            raise ProblemError(409, "job_canceled", f"job {job.id} was canceled", headers=final)
        case JobStatus.EXPIRED:
            raise ProblemError(504, "job_expired", f"job {job.id} was not started in time", headers=final)
    if job.error:
        late = job.error.code == "deadline_exceeded"
        retry = {**headers, "X-Should-Retry": "true"} if again and job.error.retryable and not late else final
        detail = f"job {job.id} failed: {job.error.message}"
        raise ProblemError(504 if late else 500, job.error.code, detail, headers=retry)


def _warning_headers(warnings: Sequence[str]) -> dict[str, str]:
    """Return the warnings for whom the client's types keep from the body's additional fields."""
    return {"X-Warnings": ", ".join(map(json.dumps, warnings))} if warnings else {}


def _urls(job: Job, images: ImageStore) -> list[ImageData]:
    """Return where the images are; in a thread, since credentials may have to be fetched."""
    return [ImageData(url=images.presign(image.key)) for image in job.images]


def _answer(job: Job, warnings: list[str], data: list[ImageData]) -> ImagesResponse:
    return ImagesResponse(
        created=int((job.finished_at or job.created_at).timestamp()),
        data=data,
        size=f"{job.input.width}x{job.input.height}",
        warnings=warnings,
        peak_memory_mb=job.peak_vram_bytes / 2**20,
    )
