"""`/v1/queue`: what autoscaling reads."""

from fastapi import APIRouter
from pydantic import BaseModel, Field

from api.deps import ServicesDep
from api.problems import problem_responses
from jobs.models import JobStatus

router = APIRouter(prefix="/v1/queue", tags=["queue"])


class QueueOverview(BaseModel):
    """The queue as a whole."""

    queued: int
    running: int
    demand: int = Field(description="queued + running: scale on this, so that busy workers aren't scaled away.")
    workers: int = Field(description="Workers alive.")
    oldest_queued_seconds: float


@router.get("", response_model=QueueOverview, responses=problem_responses(503))
async def get_queue(services: ServicesDep) -> QueueOverview:
    """Count what waits and who works."""
    overview = await services.store.overview()
    queued, running = overview.counts[JobStatus.QUEUED], overview.counts[JobStatus.RUNNING]
    return QueueOverview(
        queued=queued,
        running=running,
        demand=queued + running,
        workers=overview.workers,
        oldest_queued_seconds=overview.oldest_queued_seconds,
    )
