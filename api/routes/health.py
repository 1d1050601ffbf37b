"""`/livez`, `/readyz` and, by the name that most such services have for it, `/health`; `/metrics`."""

import asyncio
import math
from typing import Literal

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field
from redis.exceptions import RedisError

from api import metrics
from api.deps import ServicesDep
from api.problems import problem_responses, unavailable
from api.readiness import CHECK_SECONDS
from api.usage import key_usage, limits_by_owner
from jobs.record import JobStatus

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """All is well."""

    status: Literal["ok"] = Field("ok", examples=["ok"])


class Readiness(Health):
    """Jobs can be taken; whether any is drawn now, `workers` tells."""

    workers: int = Field(description="Workers alive. With none, jobs wait until one comes.", examples=[1])


@router.get("/livez")
async def livez() -> Health:
    """Tell that this process answers."""
    return Health()


NOT_READY = problem_responses((503, "not_ready", "Redis (ZIMAGE_REDIS_URL) does not answer"))


@router.get("/health", name="health", responses=NOT_READY)
@router.get("/readyz", responses=NOT_READY)
async def readyz(services: ServicesDep) -> Readiness:
    """Tell whether jobs can be taken and brought to their end; 503 names what is missing.

    That no worker is alive is no lack: workers may be scaled to none. That all of them are kept from their work is one.
    """
    found = await services.readiness.look()
    if found.missing:
        raise unavailable("not_ready", "; ".join(found.missing))
    return Readiness(workers=found.workers)


@router.get(
    "/metrics",
    response_class=PlainTextResponse,
    responses={200: {"content": {"text/plain": {"example": 'zimage_jobs{status="queued"} 3.0\n'}}}},
)
async def get_metrics(services: ServicesDep) -> Response:
    """Prometheus metrics of this process, and of the queue when Redis answers."""
    try:
        async with asyncio.timeout(CHECK_SECONDS):  # Prometheus waits for 10 s, and then counts this process as dead
            overview = await services.store.overview()
            memory = await services.store.memory()
            limits = limits_by_owner(services.keys)
            used = await services.store.usage(limits)
            metrics.webhooks_pending.set(await services.outbox.pending())
    except (RedisError, TimeoutError):
        metrics.jobs.clear()  # rather nothing than numbers from before
        metrics.jobs_ended.counts = {}
        key_usage.show({}, {}, {})
        memory = None
        gauges = (metrics.workers, metrics.dead_letters, metrics.oldest_queued_seconds, metrics.webhooks_pending)
        for gauge in gauges:
            gauge.set(math.nan)
    else:
        for status, count in overview.counts.items():
            metrics.jobs.labels(status.value).set(count)
        metrics.jobs_ended.counts = overview.ended
        free = {"queue": services.settings.queue_limit - overview.counts[JobStatus.QUEUED]}
        if memory and memory.maximum:
            free["memory"] = memory.maximum - memory.used
        key_usage.show(used, limits, free)
        metrics.workers.set(overview.workers)
        metrics.dead_letters.set(overview.dead_letters)
        metrics.oldest_queued_seconds.set(overview.oldest_queued_seconds)
    metrics.api_keys_file_ok.set(services.keys is None or services.keys.is_current())
    metrics.redis_memory_used_bytes.set(memory.used if memory else math.nan)
    metrics.redis_memory_max_bytes.set(memory.maximum if memory else math.nan)
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
