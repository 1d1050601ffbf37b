"""The Celery side of the worker: hears the doorbell and lets a task thread run the job."""

import warnings

from celery import Celery
from celery.apps.worker import Worker

from jobs.doorbell import TASK, celery_app
from jobs.settings import Settings
from worker.task import JobRunner


def build_worker(settings: Settings, runner: JobRunner, name: str) -> Worker:
    """Return a Celery worker with a task thread a slot; `start()` runs it until a signal stops it.

    Gossip, mingle, heartbeat and remote control are off: they grow with the square of the fleet, and the leases tell
    who is alive.
    """
    # Celery warns root of pickled messages; ours are JSON, and they have no content.
    warnings.filterwarnings("ignore", message="You're running the worker with superuser privileges")
    app: Celery = celery_app(settings)
    app.conf.worker_enable_remote_control = False
    app.task(name=TASK)(runner.run)
    return app.Worker(
        hostname=name,
        pool="threads",
        concurrency=settings.worker_slots,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        loglevel="WARNING",
        quiet=True,
    )
