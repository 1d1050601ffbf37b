"""What happens to every request before a route sees it: id, metrics, its head, size and type of the body."""

import asyncio
import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import metrics
from api.problems import ProblemError, error_response, is_served, shortened
from jobs.telemetry.logs import bound
from jobs.telemetry.trace_context import HEADER, entered

log = logging.getLogger(__name__)

MAX_URL_BYTES = 4096  # path and query
MAX_BODY_BYTES = 64 * 1024
BODY_SECONDS = 20.0  # for all of it
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


class RequestId:
    """Gives every request an id, the client's `X-Request-ID` where it sends one, and tells it in the answer.

    The outermost layer but `Head`; it measures the time too, and sees to it that logs tell of the id and the trace.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request (ASGI)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        start = time.monotonic()
        status = 500
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started, status
            if message["type"] == "http.response.start":
                started = True
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        with bound(request_id=request_id), entered(headers.getlist(HEADER)):
            try:
                await self._app(scope, receive, send_with_id)
            except Exception as error:
                # Here rather than in an exception handler of the app's: that one would stand outside this layer.
                if started:
                    raise
                log.error("request %s: unexpected error", request_id, exc_info=error)
                detail = "this is a fault of the service: report it with the request_id"
                problem = ProblemError(500, "internal_error", detail)
                await error_response(scope, problem)(scope, receive, send_with_id)
            finally:
                route = getattr(scope.get("route"), "path", "unmatched")
                seconds = time.monotonic() - start
                method = scope["method"] if scope["method"] in metrics.METHODS else "other"
                metrics.http_request_seconds.labels(route, method, status).observe(seconds)


class HeadGuard:
    """Refuses URLs that would cost much to read, and tell nothing that is known here.

    And those that say twice what can mean one thing only (400): each layer might take another one for it.
    """

    SINGLE = ("Host", "Idempotency-Key")

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request (ASGI)."""
        problem = self._problem(scope) if scope["type"] == "http" else None
        await (error_response(scope, problem) if problem else self._app)(scope, receive, send)

    def _problem(self, scope: Scope) -> ProblemError | None:
        if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > MAX_URL_BYTES:
            return ProblemError(414, "url_too_long", f"path and query may have at most {MAX_URL_BYTES} bytes")
        headers = Headers(scope=scope)
        for name in self.SINGLE:
            if len(headers.getlist(name)) > 1:
                return ProblemError(400, "repeated_header", f"{name} came more than once: send it once")
        return None


class BodyGuard:
    """Refuses bodies that are too large (413), too slow (408) or not plain JSON (415) before a route sees them.

    Those that were cut off are dropped: what came of them may read like a whole one.

    Where no route is there to see one, it is left alone: a picture sent there is not too large, but in the wrong place.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request (ASGI)."""
        if scope["type"] != "http" or not is_served(scope):
            await self._app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await self._read(Headers(scope=scope), receive)
        except TimeoutError:
            problem = ProblemError(
                408, "body_timeout", f"the body did not come within {BODY_SECONDS:.0f} s: send again"
            )
            await error_response(scope, problem)(scope, receive, send)
            return
        except ProblemError as problem:
            await error_response(scope, problem)(scope, receive, send)
            return
        if body is None:
            await Response(status_code=metrics.CLIENT_LEFT)(scope, receive, send)
            return
        sent = False

        async def receive_body() -> Message:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, receive_body, send)

    async def _read(self, headers: Headers, receive: Receive) -> bytes | None:
        """Return the body; None when the client left before its end."""
        too_large = ProblemError(413, "body_too_large", f"the body may have at most {MAX_BODY_BYTES} bytes")
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > MAX_BODY_BYTES:
            raise too_large
        body = b""
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > MAX_BODY_BYTES:
                raise too_large
        encoding = headers.get("content-encoding", "identity").strip().lower()
        if body and encoding != "identity":
            detail = f"the body's Content-Encoding is {shortened(encoding)}: send it as it is, without one"
            raise ProblemError(415, "unsupported_content_encoding", detail)
        media_type = headers.get("content-type", "").split(";")[0].strip().lower()
        if body and media_type != "application/json":
            raise ProblemError(415, "unsupported_media_type", "send JSON with Content-Type: application/json")
        return body
