"""How often who asks may read, and be refused, in this process: beyond it 429, before anything else is done.

Each process counts for itself, in memory: to ask Redis would cost what is to be saved.
"""

import re
from collections import OrderedDict
from time import monotonic

from starlette.datastructures import QueryParams
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.http.auth import OPEN_PATHS
from api.http.prefix import route_path
from api.metrics import CLIENT_LEFT
from api.problems import ProblemError, error_response, whole
from jobs.settings import Settings

BURST_SECONDS = 10.0  # whose worth may come at once
LONGEST_QUERY = 200  # bytes, of one that is looked into
MOST_ASKERS = 10_000  # that are remembered: those who asked last
PROBES = frozenset(("/livez", "/readyz", "/health", "/metrics"))  # asked by what watches over the service
JOBS_A_READ = 5  # of a list
LONGEST_LIST, USUAL_LIST = 100, 20  # jobs, of those that `/v1/jobs` answers with


class Rate:
    """So many per second for each who asks; those of `BURST_SECONDS` at once, and debts up to as much again."""

    def __init__(self, per_second: int) -> None:
        self.per_second = per_second
        self._paid: OrderedDict[str, float] = OrderedDict()  # when all is paid that was taken (GCRA)

    def wait(self, asker: str) -> float:
        """Return the seconds until one can be taken; 0: now."""
        return max(0.0, self._paid.get(asker, 0.0) - monotonic() - BURST_SECONDS + 1 / self.per_second)

    def take(self, asker: str, count: int = 1) -> None:
        """Take some, whether they can be taken or not."""
        now = monotonic()
        paid = max(now, self._paid.pop(asker, 0.0)) + count / self.per_second
        self._paid[asker] = min(paid, now + 2 * BURST_SECONDS)
        if len(self._paid) > MOST_ASKERS:
            self._paid.popitem(last=False)


class Rates:
    """Counts reads and refusals (4xx) of who asks, and refuses who has had too many of either.

    Pages that need no key are shown to whoever was refused too often: another behind the same proxy may want them.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._reads = Rate(settings.reads_per_second)
        self._refusals = Rate(settings.refusals_per_second)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request (ASGI)."""
        if scope["type"] != "http" or route_path(scope) in PROBES:
            await self._app(scope, receive, send)
            return
        asker = scope["state"]["asker"]
        if problem := self._problem(scope, asker):
            # Not counted itself, or who goes on asking would never be let in again.
            await error_response(scope, problem)(scope, receive, send)
            return

        async def send_counted(message: Message) -> None:
            if message["type"] == "http.response.start" and 400 <= message["status"] < CLIENT_LEFT:
                self._refusals.take(asker)
            await send(message)

        await self._app(scope, receive, send_counted)

    def _problem(self, scope: Scope, asker: str) -> ProblemError | None:
        path, reads = route_path(scope), scope["method"] == "GET"
        if not (reads and path in OPEN_PATHS) and (seconds := self._refusals.wait(asker)):
            return _too_many("too_many_refusals", f"requests by {asker} were refused too often", seconds)
        if reads:
            if seconds := self._reads.wait(asker):
                told = f"{asker} may read {self._reads.per_second} times a second"
                return _too_many("too_many_reads", told, seconds)
            self._reads.take(asker, _list_length(scope["query_string"]) // JOBS_A_READ if path == "/v1/jobs" else 1)
        return None


def _list_length(query: bytes) -> int:
    """Return how many jobs a list asks for, at least `JOBS_A_READ`; of what can't be told at a glance, the most."""
    asked = QueryParams(query).get("limit", str(USUAL_LIST)) if len(query) < LONGEST_QUERY else ""
    return max(JOBS_A_READ, min(int(asked), LONGEST_LIST)) if re.fullmatch("[0-9]{1,3}", asked) else LONGEST_LIST


def _too_many(code: str, told: str, seconds: float) -> ProblemError:
    wait = whole(seconds)
    return ProblemError(429, code, f"{told}: send it again in {wait} s", headers={"Retry-After": str(wait)})
