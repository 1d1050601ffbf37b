"""How many connections there is room for, in all and for one client; and what is answered where there is none.

Each is an open file, and others are needed too: connections get three quarters of them. Where they are taken an idle
one makes room, the one that was so longest. Where none is idle a reserve is left, for `/livez` and `/metrics` alone:
whatever clients do, it can be told that the process lives, and how it does. All else is answered 503 there. Who comes
into a full reserve takes the place of who came first.

A client is an IPv4 address or the network of an IPv6 one (/64), and has half of the room unless the setting says
otherwise. A trusted proxy has many clients, so its connections are counted in all only; behind it each client is known
by the address that the proxy tells, and the requests of it that are under way are counted.
"""

import asyncio
import resource
from collections import Counter
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from api.http.clients import client_of
from api.http.prefix import route_path, trusted_proxies
from api.problems import ProblemError, error_response, unavailable

OPEN_FILES = 16_384  # each open stream or wait is one
ALWAYS_ANSWERED = frozenset(("/livez", "/metrics"))
BEYOND = "beyond_room"  # in the state of a request whose connection is one of the reserve's

_Connections = dict[asyncio.Transport, None]  # in the order in which they came


class Room:
    """The connections of a process.

    Args:
        per_address: how many one client may have; None: half of all.
    """

    def __init__(self, per_address: int | None = None) -> None:
        self._per_address = per_address
        self._trusted = trusted_proxies()
        self._clients: dict[asyncio.Transport, str] = {}
        self._counts: Counter[str] = Counter()
        self._idle: _Connections = {}  # the one that is so for longest first
        self._idle_of: dict[str, _Connections] = {}
        self._beyond: _Connections = {}

    def enter(self, transport: asyncio.Transport) -> bool:
        """Take a connection in; False: into the reserve."""
        address = _address(transport.get_extra_info("peername"))
        client = client_of(address)
        if len(self._clients) >= most_connections():
            self._end_idle(self._idle)
        most_of_one = None if address in self._trusted else _most_of_one(self._per_address)
        if most_of_one is not None and self._counts[client] >= most_of_one:
            self._end_idle(self._idle_of.get(client, {}))
        if len(self._clients) < most_connections() and (most_of_one is None or self._counts[client] < most_of_one):
            self._clients[transport] = client
            self._counts[client] += 1
            return True
        self._beyond[transport] = None
        if len(self._beyond) > open_files() // 16:
            first = next(iter(self._beyond))
            del self._beyond[first]
            first.abort()
        return False

    def leave(self, transport: asyncio.Transport) -> None:
        """Let a connection go that is lost."""
        self.wake(transport)
        self._beyond.pop(transport, None)
        if client := self._clients.pop(transport, None):
            _one_less(self._counts, client)

    def rest(self, transport: asyncio.Transport) -> None:
        """Note that a connection is idle, until it is woken: it may be ended when its room is needed."""
        if client := self._clients.get(transport):
            self._idle[transport] = None
            self._idle_of.setdefault(client, {})[transport] = None

    def wake(self, transport: asyncio.Transport) -> None:
        """Note that a connection is not idle any more."""
        if transport in self._idle:
            del self._idle[transport]
            client = self._clients[transport]
            del self._idle_of[client][transport]
            if not self._idle_of[client]:
                del self._idle_of[client]

    def _end_idle(self, idle: _Connections) -> None:
        while idle:
            transport = next(iter(idle))
            if transport.get_write_buffer_size():  # its last answer is still read
                self.wake(transport)
                continue
            self.leave(transport)
            transport.close()
            return


class RoomGuard:
    """Answers 503 where there is no room: in the reserve, and to clients with too many requests under way.

    Args:
        app: what comes after.
        per_address: as `Room` has it.
    """

    def __init__(self, app: ASGIApp, per_address: int | None = None) -> None:
        self._app = app
        self._per_address = per_address
        self._under_way: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request (ASGI)."""
        if scope["type"] != "http" or route_path(scope) in ALWAYS_ANSWERED:
            await self._app(scope, receive, send)
            return
        client = client_of(_address(scope.get("client")))
        if scope["state"].get(BEYOND) or self._under_way[client] >= _most_of_one(self._per_address):
            await error_response(scope, _no_room())(scope, receive, send)
            return
        self._under_way[client] += 1
        try:
            await self._app(scope, receive, send)
        finally:
            _one_less(self._under_way, client)


def _no_room() -> ProblemError:
    return unavailable("too_many_connections", "too many connections are open already: send the request again later")


def open_files() -> int:
    """Return how many files this process may open, as far as connections count on them."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return OPEN_FILES if allowed == resource.RLIM_INFINITY else allowed


def most_connections() -> int:
    """Return for how many there is room, without the reserve."""
    return open_files() * 3 // 4


def _most_of_one(per_address: int | None) -> int:
    return per_address or most_connections() // 2


def _one_less(counts: Counter[str], client: str) -> None:
    counts[client] -= 1
    if not counts[client]:
        del counts[client]


def _address(peer: Any) -> str:
    """Return the address in what sockets and ASGI say of a peer."""
    return str(peer[0]) if isinstance(peer, tuple | list) and peer else ""
