"""Keeps a worker running that dies often: the next one is forked from a process that has imported everything.

Imports are most of a worker's start (4 s of CPU time); a run that kills hundreds of workers would measure little else.
"""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import psutil

_PR_SET_PDEATHSIG = 1


def raise_workers(work: Callable[[], object], ended: Callable[[int], object]) -> None:
    """Fork a process that does the work, and another one whenever it has died; SIGTERM ends both.

    Args:
        work: what a worker does. The fork comes without threads, so none may have been started yet.
        ended: told how a worker has ended: its exit code, or minus the signal.
    """
    assert len(list(Path("/proc/self/task").iterdir())) == 1, threading.enumerate()
    told: list[int] = []
    child = 0

    def pass_on(number: int, _frame: FrameType | None) -> None:
        told.append(number)
        if child:
            os.kill(child, number)

    signal.signal(signal.SIGTERM, pass_on)
    while not told:
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            work()
            sys.exit()
        _, status = os.waitpid(child, 0)
        ended(os.waitstatus_to_exitcode(status))
        child = 0


def child_of(nursery: int) -> int | None:
    """Return the process id of the worker that a nursery has forked; None between two of them."""
    try:
        children = psutil.Process(nursery).children()
        return next((child.pid for child in children if child.status() != psutil.STATUS_ZOMBIE), None)
    except psutil.NoSuchProcess:
        return None
