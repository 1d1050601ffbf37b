"""Calls to servers that may be away for a while: again and again, with growing, jittered pauses."""

import logging

from tenacity import Retrying, before_sleep_log, retry_if_exception_type, stop_after_delay, wait_random_exponential

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0  # seconds


def patiently(errors: type[Exception] | tuple[type[Exception], ...], seconds: float) -> Retrying:
    """Return a caller, `patiently(…)(function, *arguments)`, that calls until the server answers.

    Args:
        errors: what the function raises while its server is away; the last one is raised after so many seconds.
        seconds: how long to go on.
    """
    return Retrying(
        retry=retry_if_exception_type(errors),
        stop=stop_after_delay(seconds),
        wait=wait_random_exponential(multiplier=FIRST_PAUSE, max=LONGEST_PAUSE),
        before_sleep=before_sleep_log(log, logging.WARNING),
        reraise=True,
    )
