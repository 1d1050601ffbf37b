"""`/v1/queue`: what autoscaling reads."""

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from api.deps import ServicesDep
from jobs.record import JobStatus

router = APIRouter(prefix="/v1/queue", tags=["queue"])


class QueueOverview(BaseModel):
    """The queue as a whole."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"queued": 3, "running": 1, "demand": 4, "workers": 1, "oldest_queued_seconds": 2.5}]
        }
    )

    queued: int
    running: int
    demand: int = Field(description="queued + running: scale on this, so that busy workers aren't scaled away.")
    workers: int = Field(description="Workers alive.")
    oldest_queued_seconds: float


@router.get("", response_model=QueueOverview)
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
