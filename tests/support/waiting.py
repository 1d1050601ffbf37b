"""Waiting for what another process or thread is about to do."""

import time
from collections.abc import Callable
from typing import TypeVar

FoundT = TypeVar("FoundT")


def wait_until(condition: Callable[[], FoundT], seconds: float = 90) -> FoundT:
    """Return what the condition says once it is true; fail the test if it is not within so many seconds."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    return found
