"""Notices a device that hangs: nothing else ends a kernel that never does."""

import logging
import threading
import time
from collections.abc import Callable

from worker.executor.executor import Executor

log = logging.getLogger(__name__)

LOOKS = 10  # within the timeout


def watch(executor: Executor, timeout: float, leave: Callable[[float], None]) -> None:
    """Leave when the job on the device makes no progress for `timeout` seconds; watches on a thread of its own.

    Looks are counted, not seconds: a machine that was suspended meanwhile has not hung.

    Args:
        executor: gives signs of life.
        timeout: how long one of them lasts.
        leave: ends the process; given the timeout.
    """

    def look() -> None:
        last, looks = None, 0
        while looks < LOOKS:
            time.sleep(timeout / LOOKS)
            sign = executor.sign_of_life()
            looks = looks + 1 if sign is not None and sign == last else 0
            last = sign
        log.critical("the device made no progress for %g s: this process ends", timeout)
        leave(timeout)

    threading.Thread(target=look, name="watchdog", daemon=True).start()
