"""Connections whose request heads are bounded, in size and in time.

uvicorn's httptools protocol bounds neither, and joins what comes of an endless header again and again: one client
without a key could keep the process busy, and fill its memory.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 * 1024  # of the request line and all headers, when more is to come
HEAD_SECONDS = 20.0  # for all of it, from the connection's or the request's first byte on


class BoundedHeads(HttpToolsProtocol):
    """Ends connections whose request head is too large (400) or does not come."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request (asyncio)."""
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more (asyncio)."""
        self._late.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what belongs to a head (asyncio)."""
        super().data_received(data)
        if self._in_head and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self.send_400_response(f"The request's headers have more than {MAX_HEAD_BYTES} bytes.")

    def on_message_begin(self) -> None:
        """Count from here (httptools)."""
        super().on_message_begin()
        self._late.cancel()
        self._expect_head()

    def on_headers_complete(self) -> None:
        """Count no more until the next request (httptools)."""
        self._in_head = False
        self._late.cancel()
        super().on_headers_complete()

    def _expect_head(self) -> None:
        self._in_head, self._head_bytes = True, 0
        self._late: Any = self.loop.call_later(HEAD_SECONDS, self.transport.close)
