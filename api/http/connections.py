"""Connections whose request heads and trailers are bounded, in size and in time.

uvicorn's httptools protocol bounds neither, and joins what comes of an endless header again and again: one client
without a key could keep the process busy, and fill its memory. It also takes trailers, which come behind a chunked
body, for headers; here they are dropped (RFC 9110, section 6.5.1). And it reads on for as long as anything comes where
a request was answered before its body had come.

An idle connection is kept for longer than the usual balancers keep theirs: whoever closes first, the other may be
sending a request. Where too many connections are open, the one that was idle longest makes room.
"""

import asyncio
import math
import resource
from typing import Any, ClassVar

from starlette.types import Message
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.http.upgrades import DeafParser

MAX_HEAD_BYTES = 64 * 1024  # of the request line and all headers, when more is to come
HEAD_SECONDS = 20.0  # for all of it, from the request's first byte on
LINGER_SECONDS = 5.0  # for a client to stop sending what is not read any more


class BoundedHeads(HttpToolsProtocol):
    """Ends connections whose request heads or trailers are too large (400) or do not come, or are answered early."""

    _idle: ClassVar[dict["BoundedHeads", None]] = {}  # the one that is so for longest first

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request (asyncio)."""
        super().connection_made(transport)
        self.parser: DeafParser = DeafParser(self)
        self._answered_early = False
        self._expect_request()
        oldest = next(iter(self._idle))
        if oldest is not self and len(self.connections) > _most_connections():
            oldest._expected()
            oldest.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more (asyncio)."""
        self._expected()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what belongs to a head or to trailers (asyncio)."""
        if self._answered_early:
            return
        in_head_before = self._in_head  # else most of the data may be a body's
        super().data_received(data)
        if in_head_before and self._in_head and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self.send_400_response(f"The request's headers have more than {MAX_HEAD_BYTES} bytes.")

    def on_message_begin(self) -> None:
        """Count from here (httptools)."""
        super().on_message_begin()
        self._trailing = False
        self._expected()
        self._expect_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, but no trailer (httptools)."""
        if not self._trailing:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Count no more until the next chunk or request (httptools)."""
        if self.parser.will_repeat:
            return
        self._trailing = True
        self._head_ended()
        super().on_headers_complete()
        self._tell_early_answers()

    def on_chunk_header(self) -> None:
        """Count from here: behind the last chunk's header come the trailers, behind another's its body (httptools)."""
        self._expected()
        self._expect_head()

    def on_body(self, body: bytes) -> None:
        """Count no more until the next chunk or request (httptools)."""
        self._head_ended()
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Count no more until the next request (httptools)."""
        if self.parser.will_repeat:
            return
        self._head_ended()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Wait for the next request, or close the connection in stages where the body has not come (uvicorn).

        Closed at once, it would be reset, and the client might lose the answer. So only this side of it is closed, and
        what the client still sends is dropped; if it does not close its own, it is closed (RFC 9112, section 9.6).
        """
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if self._answered_early:
            self.transport.write_eof()
            self._late: Any = self.loop.call_later(LINGER_SECONDS, self.transport.close)
        elif self.cycle.response_complete and not self._in_head:  # of several sent at once, the last
            self._expect_request()

    def _tell_early_answers(self) -> None:
        """Let an answer to the request begun last say `Connection: close` if it begins before the body has come."""
        cycle: Any = self.cycle
        uvicorn_send = cycle.send

        async def send(message: Message) -> None:
            early = message["type"] == "http.response.start" and cycle.more_body
            if early:
                self._answered_early = True
                cycle.keep_alive = False  # so that uvicorn says it
            await uvicorn_send(message)
            if early:
                cycle.keep_alive = True  # else it would close at once

        cycle.send = send

    def _head_ended(self) -> None:
        self._in_head = False
        self._expected()

    def _expected(self) -> None:
        self._late.cancel()
        self._idle.pop(self, None)

    def _expect_head(self) -> None:
        self._in_head, self._head_bytes = True, 0
        self._late = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _expect_request(self) -> None:
        # uvicorn has a timer of its own for this, but stops it at an empty line, which begins no request.
        self._in_head, self._head_bytes = True, 0
        self._late = self.loop.call_later(self.timeout_keep_alive, self.transport.close)
        self._idle[self] = None


def _most_connections() -> float:
    """Return how many may be open before idle ones are closed: each is an open file, and others are needed too."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return math.inf if allowed == resource.RLIM_INFINITY else allowed * 3 / 4
