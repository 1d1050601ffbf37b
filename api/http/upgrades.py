"""Requests that ask for another protocol (`Upgrade`), which a server may ignore (RFC 9110, section 7.8).

This one speaks HTTP/1.1, but curl's `--http2` and Java's HttpClient ask for HTTP/2 with every request. httptools takes
what follows such a head for the other protocol, so that the body would be lost.
"""

from array import array
from typing import Protocol

import httptools


class ReadsHeads(Protocol):
    """What the parser asks of the one that it calls back."""

    url: bytes
    headers: list[tuple[bytes, bytes]]  # names in lower case


class DeafParser(httptools.HttpRequestParser):
    """Tells such a request a second time, then as if it had not asked."""

    def __init__(self, reader: ReadsHeads) -> None:
        self._reader = reader
        self._start()

    @property
    def will_repeat(self) -> bool:
        """Whether the request being told will be told a second time, so that this once is to be passed over."""
        return self.should_upgrade() and self.get_method() != b"CONNECT"

    def feed_data(self, data: "bytes | bytearray | memoryview | array[int]") -> None:
        """Read on (httptools)."""
        rest = memoryview(data)
        while rest:
            try:
                super().feed_data(rest)
                return
            except httptools.HttpParserUpgrade as upgrade:
                (read,) = upgrade.args
                rest = rest[read:]
                # A CONNECT has been told: no tunnel is opened, so requests go on behind it.
                head = self._head_without_upgrade() if self.will_repeat else b""
                self._start()  # after `Connection: close` it would read no more
                super().feed_data(head)

    def _start(self) -> None:
        super().__init__(self._reader)
        self.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own is

    def _head_without_upgrade(self) -> bytes:
        version = self.get_http_version().encode()
        lines = [self.get_method() + b" " + self._reader.url + b" HTTP/" + version]
        lines += [name + b": " + value for name, value in self._reader.headers if name != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])
