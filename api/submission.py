"""Submitting a job, whichever API it comes by: the model's and the service's limits, the queue, the doorbell."""

import asyncio
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Annotated

import httpx
from fastapi import Header

from api import metrics
from api.deps import Services
from api.http.at_work import resting
from api.http.limits import LONGEST_RETRY_SECONDS, limit_exceeded, limit_headers
from api.problems import RETRY_SECONDS, FieldError, ProblemError, invalid_request, unavailable, whole
from api.served_model import served_model
from api.webhooks.addresses import AddressError, LookupsError, ResolverError
from jobs.keys import ApiKey
from jobs.limits import NO_LIMITS
from jobs.model_card import DEFAULT_SIZES, SizeLimits, layers, size_warnings
from jobs.room import Room, refusal
from jobs.settings import Settings
from jobs.spec import CONTROLS, JobInput, JobRequest, random_seed
from jobs.step_cache import StepCacheParameters, if_it_fits
from jobs.store.answers import Found, Submitted

REFUSAL_SECONDS = 0.2  # after which a webhook's host is refused, whichever way it is unusable

IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="Makes it safe to send the request again: the same key and body are the same job.",
        examples=["3f9c1e8a-4b7d-42d0-a1c5-e6f708192a3b"],
    ),
]

CONTROL = re.compile(f"[{CONTROLS}]")


@dataclass(frozen=True)
class Submission:
    """A job that was accepted, now (or, `replayed`, before), and what the answer's headers say of it."""

    found: Found
    replayed: bool
    headers: dict[str, str]


async def submit(
    services: Services, owner: str, key: ApiKey | None, request: JobRequest, idempotency_key: str | None
) -> Submission:
    """Put a job into the queue.

    Args:
        services: the API's parts.
        owner: whose job it is.
        key: with what limits; None: without any.
        request: what to draw; where it names no side the served model's is filled in, where no step cache the
            service's, where no seed a random one.
        idempotency_key: the client's, or None.

    Raises:
        ProblemError: it is beyond a limit, its webhook can't be told, the queue is full, or the idempotency key came
            with another request before.
        JobGoneError: it was accepted before, and deleted since.
    """
    served = await served_model(services)
    side, stack = served.sizes.default_size, layers(served.names[0])
    as_asked = request.complete(side, side)
    default = if_it_fits(services.settings.step_cache, request.num_inference_steps, stack)
    job_input = request.complete(side, side, default)
    _check_limits(services.settings, served.sizes, stack, job_input)
    errors = [*_control_characters(request), *_without_room(served.rooms, job_input)]
    if (errors or request.webhook_url) and not (
        # Of a repetition nothing is left to be asked: its webhook was taken, though its name may not resolve now, and
        # workers of more memory have come and gone.
        idempotency_key and await services.store.has_seen(owner, idempotency_key)
    ):
        if errors:
            raise invalid_request(errors)
        if request.webhook_url:
            # Before the key's limits: with them first, and no submit spent on a refusal, as many could be looked up.
            await _check_webhook(services, owner, request.webhook_url)
    submitted = await services.store.submit(
        f"job_{secrets.token_hex(16)}",
        owner,
        job_input.model_copy(update={"seed": random_seed()}) if job_input.seed is None else job_input,
        idempotency_key=idempotency_key,
        # Of what was asked: a repetition is one, too, where the service's step cache is another one by now.
        digest=as_asked.digest(),
        # Without a size it had another digest while another model was served, or when 1024 was the default of all.
        other_digests=[request.complete(side, side).digest() for side in DEFAULT_SIZES] if idempotency_key else (),
        limits=key or NO_LIMITS,
        warnings=[*job_input.warnings, *size_warnings(served.names[0], job_input.width, job_input.height)],
    )
    metrics.jobs_submitted_total.labels(submitted.outcome).inc()
    headers = limit_headers(key, submitted)
    job_id = _accepted(services.settings, key, submitted, headers)
    replayed = submitted.outcome == "replayed"
    if replayed:
        headers["Idempotent-Replayed"] = "true"
    else:
        services.bell.ring_soon()
    found = submitted.found or await services.store.get(job_id, owner)  # which tells what became of it
    return Submission(found, replayed, headers)


def _accepted(settings: Settings, key: ApiKey | None, submitted: Submitted, headers: dict[str, str]) -> str:
    """Return the id of the job, or raise why there is none, with these headers."""
    if key and submitted.outcome in ("too_fast", "too_much", "too_many", "over_share", "over_memory"):
        raise limit_exceeded(key, submitted)
    if submitted.outcome == "mismatch":
        detail = "this Idempotency-Key came with another body before: take a new key for a new job"
        raise ProblemError(422, "idempotency_key_reused", detail, headers=headers)
    if submitted.job_id is None:
        known = submitted.retry_seconds
        seconds = min(known or RETRY_SECONDS, LONGEST_RETRY_SECONDS)
        when = f"in {whole(seconds)} s" if known else "later"
        detail = f"{settings.queue_limit} jobs are waiting already: send it again {when}"
        raise unavailable("queue_full", detail, seconds, headers)
    return submitted.job_id


def _check_limits(settings: Settings, sizes: SizeLimits, stack: int, job_input: JobInput) -> None:
    refusals = sizes.refusals(job_input.width, job_input.height)
    errors = [FieldError(pointer=f"/{side}", detail=told) for side, told in refusals.items()]
    cache = job_input.step_cache
    if isinstance(cache, StepCacheParameters) and not cache.fits_layers(stack):
        told = (
            f"first and last are {cache.first} and {cache.last}; "
            f"they must be fewer together than the served model's {stack} layers"
        )
        errors.append(FieldError(pointer="/step_cache", detail=told))
    if job_input.work > settings.max_work:
        detail = (
            f"pixels × steps × images is {job_input.work:,}; "
            f"this service takes at most {settings.max_work:,}: ask for less of one of them"
        )
        errors.append(FieldError(pointer="", detail=detail))
    if errors:
        raise invalid_request(errors)


def _without_room(rooms: Sequence[Room], job_input: JobInput) -> list[FieldError]:
    refused = refusal(rooms, job_input)
    return [FieldError(pointer=f"/{refused.field}", detail=refused.told)] if refused else []


def _control_characters(request: JobRequest) -> list[FieldError]:
    """Return what is wrong with the texts: in JSON a control character takes six bytes of Redis, and none is drawn."""
    metadata = "".join(chain(*request.metadata.items()))
    texts = {"prompt": request.prompt, "negative_prompt": request.negative_prompt or "", "metadata": metadata}
    return [
        FieldError(
            pointer=f"/{name}",
            detail=f"has the control character U+{ord(found[0]):04X}: leave it out; only line ends and tabs are taken",
        )
        for name, text in texts.items()
        if (found := CONTROL.search(text))
    ]


async def _check_webhook(services: Services, owner: str, url: str) -> None:
    if services.settings.webhook_secret is None:
        raise _refused_webhook("this service sends no webhooks: leave it out, and poll the job")
    told = asyncio.get_running_loop().time() + REFUSAL_SECONDS
    try:
        async with resting():
            await services.addresses.resolve(httpx.URL(url), owner)
    except AddressError as error:
        # A name inside the network is found sooner than it is found out that one is none: both are told at one time.
        await asyncio.sleep(told - asyncio.get_running_loop().time())
        raise _refused_webhook(str(error)) from None
    except LookupsError as error:
        detail = f"/webhook_url: {error}: send the request again later, with names that resolve"
        raise ProblemError(429, "too_many_lookups", detail, headers={"Retry-After": str(RETRY_SECONDS)}) from None
    except ResolverError as error:
        raise unavailable("resolver_unavailable", f"/webhook_url: {error}: send the request again") from None


def _refused_webhook(detail: str) -> ProblemError:
    return invalid_request([FieldError(pointer="/webhook_url", detail=detail)])
