"""Looks for work when no bell is heard: messages can be lost, and a Redis whose memory is full takes none."""

import logging
import threading

from worker.claims.leases import Leases
from worker.run import JobRunner

log = logging.getLogger(__name__)


def look_for_work(leases: Leases, runner: JobRunner) -> None:
    """Do the jobs that wait while this worker holds none; for as long as the process lives, on a thread of its own."""

    def look() -> None:
        while True:
            leases.wait_until_work_is_missed()
            # Once a bell was heard, the task threads go on.
            try:
                while not leases.held() and runner.run():
                    pass
            except Exception:
                log.exception("a job was given up; this thread goes on, since no bell may ever be heard")

    threading.Thread(target=look, name="caretaker", daemon=True).start()
