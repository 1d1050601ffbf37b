"""What connections have yet to send: a peer that takes nothing is given up, and all together hold so many bytes only.

Else answers that nobody reads would be kept for ever. Progress is counted by what the peer's kernel has acknowledged:
this process's own buffer may stay as it is for long while a slow peer reads on, since the kernel takes more only once
a good part of its own buffer is free.
"""

import asyncio
import logging
import socket
import struct
import sys
from typing import Any

log = logging.getLogger(__name__)

TAKE_SECONDS = 30.0  # in which a peer has to take something of what it is sent
LOOK_SECONDS = 3.0
ALIVE_SECONDS = 10  # between two questions whether a silent peer is still there
MOST_BYTES = 32 * 2**20  # of all connections
PIECE_BYTES = 64 * 1024  # in which answers are given to a transport: more only once it has sent most of the last one
_ACKNOWLEDGED = slice(120, 128)  # of Linux' struct tcp_info: tcpi_bytes_acked


class Backlog:
    """The connections of a process that have something to send, and how much."""

    def __init__(self) -> None:
        self._sizes: dict[Outgoing, int] = {}
        self._bytes = 0

    def note(self, outgoing: "Outgoing", size: int) -> None:
        """Note how many bytes a connection has yet to send; where they are too many in all, those stuck longest end."""
        self._set(outgoing, size)
        if self._bytes > MOST_BYTES:
            self._make_room()

    def _set(self, outgoing: "Outgoing", size: int) -> None:
        self._bytes += size - self._sizes.pop(outgoing, 0)
        if size:
            self._sizes[outgoing] = size

    def _make_room(self) -> None:
        for outgoing in list(self._sizes):
            self._set(outgoing, outgoing.size)
        for outgoing in sorted(self._sizes, key=Outgoing.moved):
            if self._bytes <= MOST_BYTES * 3 // 4:
                return
            self._set(outgoing, 0)
            outgoing.give_up("too much waits to be sent")


class Outgoing:
    """One connection's way out.

    Args:
        transport: the connection.
        backlog: of the process.
        loop: that it runs in.
    """

    def __init__(self, transport: asyncio.Transport, backlog: Backlog, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._backlog = backlog
        self._loop = loop
        self._socket: Any = transport.get_extra_info("socket")
        self._held = 0
        self._unread = 0
        self._ended = False
        self._taken = 0
        self._moved = 0.0
        self._watch: asyncio.TimerHandle | None = None
        _watched_by_the_kernel(self._socket)

    @property
    def size(self) -> int:
        """Bytes kept for the connection: of answers that are yet to be sent, and of requests that wait behind them."""
        return self._unread + self._unsent

    def note(self, held: int) -> None:
        """Look how much is to be sent now, and watch over it.

        Args:
            held: bytes of the answer that the transport was not given yet.
        """
        if self._ended:
            return
        self._held = held
        self._backlog.note(self, self.size)
        if self._unsent and self._watch is None:
            self._taken, self._moved = self._count_taken(), self._loop.time()
            self._watch = self._loop.call_later(LOOK_SECONDS, self._look)

    def note_unread(self, unread: int) -> None:
        """Note how many bytes of requests wait for those before them to be answered."""
        if unread != self._unread and not self._ended:
            self._unread = unread
            self._backlog.note(self, self.size)

    @property
    def _unsent(self) -> int:
        return self._held + self._transport.get_write_buffer_size()

    def moved(self) -> float:
        """Return when the peer was last seen to have taken something (the loop's time)."""
        taken = self._count_taken()
        if taken != self._taken:
            self._taken, self._moved = taken, self._loop.time()
        return self._moved

    def give_up(self, why: str) -> None:
        """End the connection, whatever it has yet to send."""
        log.info("a connection was given up: %s, and its peer takes nothing", why)
        # By a reset: in an orderly end the kernel would go on trying to deliver what it has.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def ended(self) -> None:
        """Watch no more: the connection is lost."""
        self._ended = True
        self._backlog.note(self, 0)
        if self._watch:
            self._watch.cancel()

    def _look(self) -> None:
        self._watch = None
        stuck = self._loop.time() - self.moved()
        self._backlog.note(self, self.size)
        if self._unsent and stuck >= TAKE_SECONDS:
            self.give_up(f"{stuck:.0f} s have passed")
        elif self._unsent:
            self._watch = self._loop.call_later(LOOK_SECONDS, self._look)

    def _count_taken(self) -> int:
        """Return a number that changes as the peer takes something."""
        try:
            told: bytes = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKNOWLEDGED.stop)
        except (AttributeError, OSError):  # no Linux; the connection is lost
            told = b""
        if len(told) < _ACKNOWLEDGED.stop:
            return self._transport.get_write_buffer_size()
        return int.from_bytes(told[_ACKNOWLEDGED], sys.byteorder)


def _watched_by_the_kernel(connection: Any) -> None:
    """Have the kernel keep little that it can't send, and end a connection whose peer takes nothing (Linux)."""
    if connection is None or not hasattr(socket, "TCP_USER_TIMEOUT"):
        return
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, PIECE_BYTES)  # else it keeps megabytes
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # who waits for a job is sent nothing for long
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, int(TAKE_SECONDS))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, ALIVE_SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(TAKE_SECONDS * 1000))
