"""Looks for work when no bell is heard: messages can be lost, and a Redis whose memory is full takes none."""

import logging
import threading
from collections.abc import Callable

from worker.claims.leases import Leases

log = logging.getLogger(__name__)


def look_for_work(leases: Leases, run: Callable[[], bool]) -> None:
    """Do the jobs that wait while this worker holds none; for as long as the process lives, on a thread of its own.

    Args:
        leases: hear of jobs that wait.
        run: does a job, if one waits.
    """

    def look() -> None:
        while True:
            leases.wait_until_work_is_missed()
            # Once a bell was heard, the task threads go on.
            try:
                while not leases.held() and run():
                    pass
            except Exception:
                log.exception("a job was given up; this thread goes on, since no bell may ever be heard")

    threading.Thread(target=look, name="caretaker", daemon=True).start()
