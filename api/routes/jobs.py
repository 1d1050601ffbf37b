"""`/v1/jobs`: submit, read, wait, list, cancel, delete, fetch images, follow."""

import asyncio
import json
import logging
from collections.abc import AsyncIterable, Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, Header, HTTPException, Path, Query, Request, Response
from fastapi.responses import RedirectResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel, ConfigDict, Field
from redis.exceptions import RedisError

from api.deps import AskerDep, KeyDep, OwnerDep, Services, ServicesDep, held
from api.document import (
    AWAY,
    CACHE_CONTROL,
    ETAG,
    IMAGE_LINKS,
    IMAGE_LOCATION,
    JOB_LINKS,
    LOCATION,
    PENDING,
    PREFERENCE_APPLIED,
    RATE_LIMIT,
    REPLAYED,
    STREAMED,
    STREAMS,
    SUBMITTED,
    Error,
)
from api.metrics import CLIENT_LEFT
from api.problems import RETRY_SECONDS, FieldError, ProblemError, invalid_request, problem_responses, unavailable
from api.submission import IdempotencyKey, submit
from api.views import EXAMPLE, URLS_EXAMPLE, JobView, etag, etag_matches, job_view, pending_headers
from api.waiting import follow, unless_disconnected, wait_preference, waited
from jobs.objects.refusals import STORAGE_ERRORS
from jobs.objects.removal import StillThereError
from jobs.record import JobStatus
from jobs.spec import MAX_IMAGES, JobRequest
from jobs.store.answers import BadCursorError, Found, JobGoneError, JobUnknownError

log = logging.getLogger(__name__)

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

FOLLOW_SECONDS = 3600.0

JobId = Annotated[str, Path(max_length=64, examples=["job_3f9c1e8a4b7d42d0a1c5e6f708192a3b"])]


ImageIndex = Annotated[int, Path(ge=0, lt=MAX_IMAGES, description="0 is the first.")]
Cursor = Annotated[str, Field(json_schema_extra={"format": "cursor"})]

READ = {**ETAG, **CACHE_CONTROL, **PENDING, **PREFERENCE_APPLIED}
# OpenAPI 3.1 has no word for the events of a stream: tools take the schema of a stream as that of each event.
EVENT = {
    "type": "object",
    "properties": {
        "event": {"type": "string", "enum": ["status", "progress"]},
        "id": {"type": "string", "description": "The record's version."},
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {"$ref": "#/components/schemas/JobView"},
        },
    },
    "required": ["event", "id", "data"],
}
EVENT_EXAMPLE = {
    "event": "progress",
    "id": "4",
    "data": '{"id": "job_3f9c1e8a4b7d42d0a1c5e6f708192a3b", "status": "running", …}',
}
BY_ID: Sequence[Error] = [
    (404, "job_not_found", "there is no job of this id"),
    (410, "job_gone", "the job was deleted or is past its retention"),
    (422, "invalid_request", "job_id: String should have at most 64 characters"),
]
REMOVAL_REFUSED = (
    "the storage refuses to remove the images, so they and the job were kept: the service's operator has to allow it "
    "(`zimage doctor` says what is refused); then send the request again"
)


class JobPage(BaseModel):
    """A page of jobs, newest first; `next_cursor` is null on the last."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"jobs": [{**EXAMPLE, "urls": URLS_EXAMPLE}], "next_cursor": "MTc2NzYxNDQwMDAwMDAwMA"}]
        }
    )

    jobs: list[JobView]
    next_cursor: Cursor | None


async def _view(services: Services, found: Found, request: Request) -> JobView:
    if not found.job.images:
        return job_view(found, services.images, request)
    # Signing is arithmetic, but credentials may have to be fetched first: not on the event loop.
    return await services.signing.run(job_view, found, services.images, request)


@router.post(
    "",
    status_code=202,
    response_model=JobView,
    responses={
        202: {"headers": {**LOCATION, **PENDING, **RATE_LIMIT}, "links": JOB_LINKS},
        200: {
            "model": JobView,
            "description": "Replayed",
            "headers": {**LOCATION, **PENDING, **RATE_LIMIT, **REPLAYED},
            "links": JOB_LINKS,
        },
        **problem_responses(
            *SUBMITTED,
            (503, "resolver_unavailable", "/webhook_url: hooks.example can't be resolved now: send the request again"),
        ),
    },
)
async def submit_job(
    body: JobRequest,
    request: Request,
    response: Response,
    services: ServicesDep,
    owner: OwnerDep,
    key: KeyDep,
    idempotency_key: IdempotencyKey = None,
) -> JobView:
    """Accept a job: from here on it ends as succeeded, failed, canceled or expired, whatever dies in between.

    With an `Idempotency-Key` the request can be repeated safely: the same body gives the same job (200,
    `Idempotent-Replayed: true`), another body 422.
    """
    submission = await submit(services, owner, key, body, idempotency_key)
    if submission.replayed:
        response.status_code = 200
    found = submission.found
    location = str(request.url_for("get_job", job_id=found.job.id))
    response.headers.update({"Location": location, **pending_headers(found), **submission.headers})
    return await _view(services, found, request)


@router.get(
    "",
    response_model=JobPage,
    responses=problem_responses((422, "invalid_request", "cursor: take it unchanged from next_cursor")),
)
async def list_jobs(
    request: Request,
    services: ServicesDep,
    owner: OwnerDep,
    asker: AskerDep,
    status: JobStatus | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[Cursor | None, Query(description="`next_cursor` of the page before.")] = None,
) -> Response:
    """List jobs, newest first."""
    try:
        async with services.lists.turn(asker):
            page, next_cursor = await services.store.list(owner, status=status, limit=limit, cursor=cursor)
            jobs = []
            for found in page:
                jobs.append((await _view(services, found, request)).model_dump_json())
                await asyncio.sleep(0)  # others are waiting for the event loop
    except BadCursorError:
        error = FieldError(parameter="cursor", detail="take it unchanged from next_cursor")
        raise invalid_request([error]) from None
    except TimeoutError:
        detail = f"{asker} asks for too many lists at once: send it again in {RETRY_SECONDS} s"
        raise ProblemError(429, "too_many_reads", detail, headers={"Retry-After": str(RETRY_SECONDS)}) from None
    # Of a list that nobody reads the text alone is kept: objects would take several times as much.
    content = f'{{"jobs":[{",".join(jobs)}],"next_cursor":{json.dumps(next_cursor)}}}'
    return Response(content, media_type="application/json")


@router.get(
    "/{job_id}",
    response_model=JobView,
    responses={
        200: {"headers": READ, "links": IMAGE_LINKS},
        304: {"headers": READ},
        **problem_responses(*BY_ID, STREAMS),
    },
)
async def get_job(
    job_id: JobId,
    request: Request,
    response: Response,
    services: ServicesDep,
    owner: OwnerDep,
    asker: AskerDep,
    prefer: Annotated[str | None, Header(description="`wait=N` holds the answer until the job ends, N ≤ 60 s.")] = None,
    if_none_match: Annotated[str | None, Header(description="An `ETag`: 304 as long as nothing has changed.")] = None,
) -> JobView | Response:
    """Read a job in any state."""
    found = await services.store.get(job_id, owner)
    wait = wait_preference(prefer)
    if wait and found.job.status.active:
        with services.held.answer(asker):
            latest = await unless_disconnected(request, waited(services, found, wait))
        if latest is None:
            return Response(status_code=CLIENT_LEFT)
        found = latest
        if found.job.status.active:
            found = await services.store.get(job_id, owner)  # its place in the queue is another one by now
    headers = {"ETag": etag(found, services.settings), "Cache-Control": "private, no-cache", **pending_headers(found)}
    if wait:
        headers["Preference-Applied"] = f"wait={wait:.0f}"
    if if_none_match and etag_matches(if_none_match, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    response.headers.update(headers)
    return await _view(services, found, request)


@router.post(
    "/{job_id}/cancel",
    response_model=JobView,
    responses={
        202: {"model": JobView, "description": "Running: stops before its next step"},
        **problem_responses(*BY_ID, (409, "job_ended", "the job has ended already: succeeded")),
    },
)
async def cancel_job(
    job_id: JobId, request: Request, response: Response, services: ServicesDep, owner: OwnerDep
) -> JobView:
    """Cancel a job: at once while queued, before its next step while running."""
    try:
        outcome, status = await services.store.cancel(job_id, owner)
    except JobUnknownError:
        outcome, status = "ended", (await services.store.get(job_id, owner)).job.status  # tells gone from unknown
    if outcome == "ended":
        raise ProblemError(409, "job_ended", f"the job has ended already: {status}")
    if outcome == "requested":
        response.status_code = 202
    return await _view(services, await services.store.get(job_id, owner), request)


@router.delete(
    "/{job_id}",
    status_code=204,
    response_class=Response,
    responses=problem_responses(
        *BY_ID,
        (409, "job_active", "the job is running: cancel it first, then delete it"),
        AWAY,
        (502, "removal_refused", REMOVAL_REFUSED),
        (503, "storage_unavailable", "the images can't be removed now, so the job was kept: send the request again"),
    ),
)
async def delete_job(job_id: JobId, services: ServicesDep, owner: OwnerDep) -> None:
    """Delete an ended job and its images."""
    await services.store.get(job_id, owner)  # raises for a stranger, who may not bury it
    await services.store.bury(job_id)  # from here on nobody can queue it again, so what is read next stays true
    found = await services.store.get(job_id, owner)
    if found.job.status.active:
        detail = f"the job is {found.job.status}: cancel it first, then delete it"
        raise ProblemError(409, "job_active", detail)
    known = services.images.keys(job_id, found.job.attempt, len(found.job.images)) if found.job.images else []
    try:
        await services.removals.run(services.images.delete_job, job_id, known)
    except (*STORAGE_ERRORS, StillThereError) as error:
        if isinstance(error, StillThereError) and error.lasting:
            # Not a 503: nothing changes while nobody but the client does anything.
            raise ProblemError(502, "removal_refused", REMOVAL_REFUSED) from None
        detail = "the images can't be removed now, so the job was kept: send the request again"
        raise unavailable("storage_unavailable", detail) from None
    await services.store.delete(job_id, owner)


@router.get(
    "/{job_id}/images/{index}",
    status_code=307,
    response_class=RedirectResponse,
    responses={
        307: {"headers": {**IMAGE_LOCATION, **CACHE_CONTROL}},
        **problem_responses(*BY_ID, (404, "image_not_found", "the job is running and has 0 images")),
    },
)
async def get_image(job_id: JobId, index: ImageIndex, services: ServicesDep, owner: OwnerDep) -> RedirectResponse:
    """Redirect to an image's presigned URL."""
    job = (await services.store.get(job_id, owner)).job
    for image in job.images:
        if image.index == index:
            url = await services.signing.run(services.images.presign, image.key)
            return RedirectResponse(url, 307, headers={"Cache-Control": "private, no-store"})
    detail = f"the job is {job.status} and has {len(job.images)} images"
    raise ProblemError(404, "image_not_found", detail)


LastEventId = Annotated[str | None, Header(description="The last event that was seen: goes on after it.")]


async def _with_events(
    job_id: JobId, services: ServicesDep, owner: OwnerDep, last_event_id: LastEventId = None
) -> Found:
    # Before the stream begins: from then on it is too late for a 404, or for the 204 that ends an EventSource.
    found = await services.store.get(job_id, owner)
    if not found.job.status.active and str(found.job.version) == last_event_id:
        raise HTTPException(204)
    return found


@router.get(
    "/{job_id}/events",
    name="job_events",
    dependencies=[Depends(held)],
    response_class=EventSourceResponse,
    responses={
        200: {"headers": STREAMED, "content": {"text/event-stream": {"schema": EVENT, "example": EVENT_EXAMPLE}}},
        204: {"description": "`Last-Event-ID` was the last of all: don't reconnect"},
        **problem_responses(*BY_ID, STREAMS),
    },
)
async def job_events(
    job_id: JobId,
    found: Annotated[Found, Depends(_with_events)],
    request: Request,
    services: ServicesDep,
    key: KeyDep,
    last_event_id: LastEventId = None,
) -> AsyncIterable[ServerSentEvent]:
    """Follow a job as server-sent events: `status` and `progress` while it is active, its final status last.

    An event's data is the job; its id is the record's version, so that `Last-Event-ID` goes on after it. A stream that
    ends while the job is active (after an hour, when the queue can't be reached for long, the key was
    revoked, or this process of the service ends) is to be taken up so.
    """
    status = None
    try:
        async for latest in follow(services, found, FOLLOW_SECONDS, key):
            job = latest.job
            event = "progress" if job.status == status else "status"
            status = job.status
            if str(job.version) != last_event_id:
                view = await _view(services, latest, request)
                yield ServerSentEvent(data=view, event=event, id=str(job.version))
    # It is too late for another status code: the client is told it when it comes back.
    except RedisError as error:
        log.warning("events of job %s end here, Redis is away: %s", job_id, error, extra={"job_id": job_id})
    except (JobGoneError, JobUnknownError):
        log.info("events of job %s end here: it was deleted", job_id, extra={"job_id": job_id})
