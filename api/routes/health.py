"""`/livez`, `/readyz` and, by the name that most such services have for it, `/health`; `/metrics`."""

import asyncio
import math
from collections.abc import Awaitable
from typing import Literal

from botocore.exceptions import BotoCoreError, ClientError
from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field
from redis.exceptions import RedisError

from api import metrics
from api.deps import CHECK_SECONDS, ServicesDep
from api.problems import problem_responses, unavailable

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """All is well."""

    status: Literal["ok"] = Field("ok", examples=["ok"])


@router.get("/livez")
async def livez() -> Health:
    """Tell that this process answers."""
    return Health()


NOT_READY = problem_responses((503, "not_ready", "Redis (ZIMAGE_REDIS_URL) does not answer"))


@router.get("/health", name="health", responses=NOT_READY)
@router.get("/readyz", responses=NOT_READY)
async def readyz(services: ServicesDep) -> Health:
    """Tell whether jobs can be taken; 503 names what is missing."""
    settings = services.settings
    missing = await asyncio.gather(
        _missing("Redis (ZIMAGE_REDIS_URL)", services.store.overview()),
        _missing(
            f"S3 bucket {settings.s3_bucket} (ZIMAGE_S3_ENDPOINT, ZIMAGE_S3_BUCKET)",
            asyncio.to_thread(services.images.check),
        ),
    )
    if any(missing):
        raise unavailable("not_ready", "; ".join(filter(None, missing)))
    return Health()


async def _missing(name: str, check: Awaitable[object]) -> str | None:
    try:
        await asyncio.wait_for(check, CHECK_SECONDS)
    except TimeoutError:
        return f"{name} does not answer"
    except (RedisError, BotoCoreError, ClientError) as error:
        return f"{name}: {error}"
    return None


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
            metrics.webhooks_pending.set(await services.outbox.pending())
    except (RedisError, TimeoutError):
        metrics.jobs.clear()  # rather nothing than numbers from before
        metrics.jobs_ended.counts = {}
        memory = None
        gauges = (metrics.workers, metrics.dead_letters, metrics.oldest_queued_seconds, metrics.webhooks_pending)
        for gauge in gauges:
            gauge.set(math.nan)
    else:
        for status, count in overview.counts.items():
            metrics.jobs.labels(status.value).set(count)
        metrics.jobs_ended.counts = overview.ended
        metrics.workers.set(overview.workers)
        metrics.dead_letters.set(overview.dead_letters)
        metrics.oldest_queued_seconds.set(overview.oldest_queued_seconds)
    metrics.redis_memory_used_bytes.set(memory.used if memory else math.nan)
    metrics.redis_memory_max_bytes.set(memory.maximum if memory else math.nan)
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
