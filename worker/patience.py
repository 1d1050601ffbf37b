"""Calls to servers that may be away for a while: again and again, with growing, jittered pauses."""

import logging
from collections.abc import Callable
from typing import Literal

from tenacity import (
    RetryCallState,
    Retrying,
    before_sleep_log,
    retry_if_exception_type,
    stop_after_delay,
    wait_random_exponential,
)

from worker import metrics

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0  # seconds


def patiently(
    server: Literal["redis", "s3"],
    errors: type[Exception] | tuple[type[Exception], ...],
    seconds: float,
    check: Callable[[], None] = lambda: None,
) -> Retrying:
    """Return a caller, `patiently(…)(function, *arguments)`, that calls until the server answers.

    Args:
        server: counts what it did not answer.
        errors: what the function raises while its server is away; the last one is raised after so many seconds.
        seconds: how long to go on.
        check: called before another try; what it raises ends them.
    """

    def count_and_log(state: RetryCallState) -> None:
        metrics.server_errors_total.labels(server).inc()
        before_sleep_log(log, logging.WARNING)(state)
        check()

    return Retrying(
        retry=retry_if_exception_type(errors),
        stop=stop_after_delay(seconds),
        wait=wait_random_exponential(multiplier=FIRST_PAUSE, max=LONGEST_PAUSE),
        before_sleep=count_and_log,
        reraise=True,
    )
