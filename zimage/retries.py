"""When the clients send a request again, and for how long."""

import random
import time

import httpx

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

    def tries(self, method: str) -> "Tries":
        """Begin a call."""
        return Tries(self, method)

    def answered(self) -> None:
        """Note that something has answered."""
        self._answered = True

    @property
    def seconds(self) -> float:
        """How long a call is tried again."""
        return RESTART_SECONDS if self._answered else STRANGER_SECONDS


class Tries:
    """The tries of one call: after each it tells for how many seconds to pause; None: it is the last."""

    def __init__(self, patience: Patience, method: str) -> None:
        self._patience = patience
        # A DELETE that got lost on the way back would be answered 404 or 410 the second time.
        self._lost: type[Exception] = httpx.ConnectError if method == "DELETE" else httpx.TransportError
        self._busy = BUSY if method == "DELETE" else BUSY + UNKNOWN
        self._failures = 0
        self._failed_first: float | None = None

    def after_error(self, error: httpx.TransportError) -> float | None:
        """The request was not answered."""
        again = isinstance(error, self._lost) and not isinstance(error, NEVER_SENT)
        return self._pause(0.0) if again else None

    def after_answer(self, response: httpx.Response) -> float | None:
        """The request was answered."""
        self._patience.answered()
        asked = retry_after(response)
        again = response.status_code in self._busy and asked <= LONGEST_RETRY_AFTER
        return self._pause(asked) if again else None

    def _pause(self, asked: float) -> float | None:
        now = time.monotonic()
        self._failed_first = now if self._failed_first is None else self._failed_first
        if now - self._failed_first >= self._patience.seconds:
            return None
        longest = min(LONGEST_DELAY, FIRST_DELAY * 2.0**self._failures)
        self._failures += 1
        # Random, or all who lost the service would come back at the same moments.
        return asked + random.uniform(0, longest)  # noqa: S311 - no secret


def retry_after(response: httpx.Response) -> float:
    """Return the seconds that a refusal asks to wait for; 0: it asks for none."""
    value = response.headers.get("Retry-After", "")
    return float(value) if value.isdecimal() else 0.0
