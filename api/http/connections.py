"""Connections whose request heads and trailers are bounded, in size and in time.

uvicorn's httptools protocol bounds neither, and joins what comes of an endless header again and again: one client
without a key could keep the process busy, and fill its memory. It also takes trailers, which come behind a chunked
body, for headers; here they are dropped (RFC 9110, section 6.5.1). And it reads on for as long as anything comes where
a request was answered before its body had come.

It parses all that has come, too: thousands of requests, each with a state of its own, where a client sends them without
waiting for answers. Here what comes behind a request that waits for its turn is kept as it is.

An idle connection is kept for longer than the usual balancers keep theirs: whoever closes first, the other may be
sending a request.
"""

import asyncio
import functools
from collections import deque
from typing import Any, cast

from starlette.types import Message
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.http.room import BEYOND, Room
from api.http.unsent import PIECE_BYTES, Backlog, Outgoing
from api.http.upgrades import DeafParser

MAX_HEAD_BYTES = 64 * 1024  # of the request line and all headers, when more is to come
MAX_HEADERS = 256  # each takes many times the four bytes that it may have
READ_BYTES = 1024  # that are parsed at once
HEAD_SECONDS = 20.0  # for all of it, from the request's first byte on
LINGER_SECONDS = 5.0  # for a client to stop sending what is not read any more


def protocol(per_address: int | None = None) -> type[asyncio.Protocol]:
    """Return what uvicorn makes connections by, for one process.

    Args:
        per_address: connections that one client may have; None: half of all.
    """
    made = functools.partial(Connection, room=Room(per_address), backlog=Backlog())
    return cast("type[asyncio.Protocol]", made)


class Connection(HttpToolsProtocol):
    """Ends connections whose request heads or trailers are too large (400) or do not come, or are answered early."""

    def __init__(self, *args: Any, room: Room, backlog: Backlog, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._room = room
        self._backlog = backlog

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request (asyncio)."""
        super().connection_made(transport)
        self.parser: DeafParser = DeafParser(self)
        self._unread = bytearray()
        self._unanswered: deque[Any] = deque()  # uvicorn's cycles, of which the first has begun
        self._fault: str | None = None
        self._answered_early = False
        self._outgoing = Outgoing(transport, self._backlog, self.loop)
        self._has_room = self._room.enter(transport)
        self._expect_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more (asyncio)."""
        self._expected()
        self._room.leave(self.transport)
        self._outgoing.ended()
        self._unread.clear()
        for cycle in self._unanswered:  # uvicorn tells the last one only
            cycle.disconnected = True
            cycle.message_event.set()
            _release(cycle)
        super().connection_lost(exc)
        self.parser = None  # type: ignore[assignment]  # which knows this connection: so both go at once

    def data_received(self, data: bytes) -> None:
        """Read as far as requests are answered (asyncio)."""
        self._unread += data
        self._read_on()

    def _read_on(self) -> None:
        while self._unread and not self.pipeline and not self.transport.is_closing():
            if self._answered_early:
                self._unread.clear()
                return
            piece = bytes(self._unread[:READ_BYTES])
            del self._unread[:READ_BYTES]
            self._read(piece)
        if self._unread:
            self.flow.pause_reading()
        self._outgoing.note_unread(len(self._unread))

    def _read(self, data: bytes) -> None:
        """Count what belongs to a head or to trailers."""
        in_head_before = self._in_head  # else most of the data may be a body's
        super().data_received(data)
        if in_head_before and self._in_head and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self.send_400_response(f"The request's headers have more than {MAX_HEAD_BYTES} bytes.")

    def send_400_response(self, msg: str) -> None:
        """Tell what is wrong with a request that can't be read, and close (uvicorn)."""
        super().send_400_response(self._fault or msg)

    def on_message_begin(self) -> None:
        """Count from here (httptools)."""
        super().on_message_begin()
        if not self._has_room:
            self.scope["state"][BEYOND] = True
        self._trailing = False
        self._expected()
        self._expect_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, but no trailer (httptools)."""
        if self._trailing:
            return
        super().on_header(name, value)
        if len(self.headers) > MAX_HEADERS:
            self._fault = f"The request has more than {MAX_HEADERS} headers."
            raise ValueError(self._fault)  # so that the parser reads no more

    def on_headers_complete(self) -> None:
        """Count no more until the next chunk or request (httptools)."""
        if self.parser.will_repeat:
            return
        self._trailing = True
        self._head_ended()
        super().on_headers_complete()
        if not self._has_room:
            self.cycle.keep_alive = False
        self._unanswered.append(self.cycle)
        self._send_in_pieces(self.cycle)
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
        _release(self._unanswered.popleft())
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if self._answered_early:
            self.transport.write_eof()
            self._late: Any = self.loop.call_later(LINGER_SECONDS, self.transport.close)
        elif self.cycle.response_complete and not self._in_head:  # of several sent at once, the last
            self._expect_request()
        self._read_on()

    def _send_in_pieces(self, cycle: Any) -> None:
        """Let an answer take no more of the transport's memory than a piece, and have it watched until it is taken."""
        uvicorn_send = cycle.send

        async def send(message: Message) -> None:
            left = memoryview(message.get("body", b""))
            while len(left) > PIECE_BYTES:
                piece = left[:PIECE_BYTES]
                self._outgoing.note(len(left))
                await uvicorn_send({**message, "body": piece, "more_body": True})
                left = left[PIECE_BYTES:]
            self._outgoing.note(len(left))
            await uvicorn_send({**message, "body": left} if left else message)
            self._outgoing.note(0)

        cycle.send = send

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
        self._room.wake(self.transport)

    def _expect_head(self) -> None:
        self._in_head, self._head_bytes = True, 0
        self._late = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _expect_request(self) -> None:
        # uvicorn has a timer of its own for this, but stops it at an empty line, which begins no request.
        self._in_head, self._head_bytes = True, 0
        self._late = self.loop.call_later(self.timeout_keep_alive, self.transport.close)
        self._room.rest(self.transport)


def _release(cycle: Any) -> None:
    """Take from a request what was put around its `send`, and knows it: so it goes at once, with all that it holds."""
    vars(cycle).pop("send", None)
