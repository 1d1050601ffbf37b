"""When the clients send a request again, and for how long."""

import time
from typing import Any, cast

import httpx
from tenacity import (
    Future,
    RetryCallState,
    retry_if_exception_type,
    retry_if_not_exception_type,
    retry_if_result,
    wait_combine,
    wait_random_exponential,
)

STRANGER_SECONDS = 3.0  # an address at which nothing ever answered: it may be a wrong one
RESTART_SECONDS = 45.0  # one that has answered: it starts again, or its proxy looks for it
FIRST_DELAY = 0.2
LONGEST_DELAY = 5.0
LONGEST_RETRY_AFTER = 30.0  # who asks for more has answered
BUSY = (httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE)
# A proxy's: the request may have arrived.
UNKNOWN = (httpx.codes.BAD_GATEWAY, httpx.codes.GATEWAY_TIMEOUT)
NEVER_SENT = (httpx.UnsupportedProtocol, httpx.LocalProtocolError)  # faults of the request itself


class Patience:
    """One client's patience: counted from a call's first failure, longer once anything has answered the client."""

    def __init__(self) -> None:
        self._answered = False

    def answered(self) -> None:
        """Note that something has answered."""
        self._answered = True

    def rules(self, method: str) -> dict[str, Any]:
        """Return what tenacity does about one call; at the end the last outcome is given."""
        # A DELETE that got lost on the way back would be answered 404 or 410 the second time.
        lost, busy = (httpx.ConnectError, BUSY) if method == "DELETE" else (httpx.TransportError, BUSY + UNKNOWN)
        failed_first: float | None = None

        def spent(state: RetryCallState) -> bool:
            nonlocal failed_first
            if not _outcome(state).failed:
                self.answered()
            now = time.monotonic()
            failed_first = now if failed_first is None else failed_first
            return now - failed_first >= (RESTART_SECONDS if self._answered else STRANGER_SECONDS)

        return {
            "retry": (retry_if_exception_type(lost) & retry_if_not_exception_type(NEVER_SENT))
            | retry_if_result(lambda answer: answer.status_code in busy and _asked(answer) <= LONGEST_RETRY_AFTER),
            # Random, or all who lost the service would come back at the same moments.
            "wait": wait_combine(_retry_after, wait_random_exponential(multiplier=FIRST_DELAY, max=LONGEST_DELAY)),
            "stop": spent,
            "retry_error_callback": lambda state: _outcome(state).result(),
        }


def _retry_after(state: RetryCallState) -> float:
    outcome = _outcome(state)
    return 0.0 if outcome.failed else _asked(outcome.result())


def _outcome(state: RetryCallState) -> Future:
    return cast("Future", state.outcome)  # None only before the first attempt, when nobody asks


def _asked(response: httpx.Response) -> float:
    value = response.headers.get("Retry-After", "")
    return float(value) if value.isdecimal() else 0.0
