"""The Celery side of the worker: hears the doorbell and lets a task thread run the job."""

import logging
import warnings

from celery import Celery
from celery.apps.worker import Worker

from jobs.doorbell import TASK, celery_app
from jobs.settings import Settings
from worker.task import JobRunner

log = logging.getLogger(__name__)

RESTART_SECONDS = 5.0


def hear_the_bell(settings: Settings, runner: JobRunner, name: str) -> None:
    """Run Celery with a task thread a slot until a signal stops it.

    Celery gives up when Redis refuses a command, as it does when its memory is full: then it is started again.
    """
    # Celery warns root of pickled messages; ours are JSON, and they have no content.
    warnings.filterwarnings("ignore", message="You're running the worker with superuser privileges")
    while not runner.stop_claiming.is_set():
        _build_worker(settings, runner, name).start()
        if not runner.stop_claiming.wait(RESTART_SECONDS):
            log.warning("Celery gave up and is started again")


def _build_worker(settings: Settings, runner: JobRunner, name: str) -> Worker:
    # Gossip, mingle, heartbeat and remote control are off: they grow with the square of the fleet, and the leases tell
    # who is alive.
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
