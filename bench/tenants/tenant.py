"""A tenant of the service, honest or not: a process with a key, an address and a pace, and what it was answered."""

import asyncio
import contextlib
import multiprocessing
import os
import resource
import socket
import struct
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import httpx

UNDER_WAY = 64  # requests of one pace: more are left out


@dataclass(frozen=True)
class Tenant:
    """Who asks, and of whom."""

    name: str
    key: str
    address: str  # on loopback: where its connections come from
    api_url: str

    @property
    def headers(self) -> dict[str, str]:
        """The headers by which it is known; none without a key."""
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}

    @asynccontextmanager
    async def client(self, connections: int = UNDER_WAY) -> AsyncIterator[httpx.AsyncClient]:
        """Give a client like anybody's: it keeps its connections, and comes from the tenant's address."""
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        transport = httpx.AsyncHTTPTransport(local_address=self.address, limits=limits)
        async with httpx.AsyncClient(
            base_url=self.api_url, transport=transport, headers=self.headers, timeout=90
        ) as client:
            yield client

    async def connect(self) -> socket.socket:
        """Return a connection that takes little of what it is sent, as long as nobody reads from it."""
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        # Closed by a reset, lest this side's ports be used up by connections that are over.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.setblocking(False)
        try:
            connection.bind((self.address, 0))
            url = httpx.URL(self.api_url)
            await asyncio.get_running_loop().sock_connect(connection, (url.host, url.port))
        except BaseException:
            connection.close()
            raise
        return connection

    def head(self, method: str, path: str, body: bytes = b"", **more: str) -> bytes:
        """Return a request as it goes over the wire."""
        headers = {"Host": "soak", **self.headers, **more}
        if body:
            headers |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        return "\r\n".join(lines).encode() + body


@dataclass
class Notes:
    """What became of a tenant's requests."""

    accepted: list[str] = field(default_factory=list)  # ids of jobs
    answers: Counter[str] = field(default_factory=Counter)
    told: dict[str, Any] = field(default_factory=dict)  # what this tenant alone has to tell
    fault: str | None = None  # of the tenant itself: it did not do what it was to do

    def answer(self, what: str, response: httpx.Response) -> httpx.Response:
        """Count an answer, and keep the job that it accepts."""
        code = ""
        if response.status_code >= 400:
            with contextlib.suppress(ValueError, AttributeError):
                body = response.json()
                code = f" {(body.get('error') or body).get('code')}"
        self.answers[f"{what}: {response.status_code}{code}"] += 1
        if response.status_code in (200, 202) and what.startswith("submit"):
            self.accepted.append(response.json()["id"])
        return response

    async def ask(
        self, client: httpx.AsyncClient, what: str, method: str, path: str, **request: Any
    ) -> httpx.Response | None:
        """Send a request and count what came of it; None: no answer."""
        try:
            return self.answer(what, await client.request(method, path, **request))
        except httpx.TransportError as error:
            self.answers[f"{what}: {type(error).__name__}"] += 1
            return None


async def paced(
    per_second: float, act: Callable[[int], Awaitable[object]], seconds: float, under_way: int = UNDER_WAY
) -> None:
    """Do something so many times a second, whatever becomes of the times before.

    Args:
        per_second: how often.
        act: what; it is told how often it was done before.
        seconds: for how long; what is under way then is given up.
        under_way: times that are under way at once; beyond it times are left out.
    """
    begun: set[asyncio.Task[object]] = set()

    async def begin_all() -> None:
        start, number = time.monotonic(), 0
        while True:
            if len(begun) < under_way:
                task = asyncio.ensure_future(act(number))
                begun.add(task)
                task.add_done_callback(ended)
            number += 1
            await asyncio.sleep(start + number / per_second - time.monotonic())

    def ended(task: asyncio.Task[object]) -> None:
        begun.discard(task)
        if not task.cancelled() and (error := task.exception()):
            failed.set_exception(error) if not failed.done() else None

    failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    beginning = asyncio.create_task(begin_all())
    try:
        await asyncio.wait({beginning, failed}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if failed.done():
            failed.result()
    finally:
        for task in (beginning, *begun):
            task.cancel()
        await asyncio.gather(beginning, *begun, return_exceptions=True)


Behaviour = Callable[[Tenant, float, Notes], Coroutine[Any, Any, None]]


class TenantProcess:
    """Runs a tenant in a process of its own.

    Args:
        tenant: who it is.
        behaviour: what it does, for some seconds.
        seconds: how long.
        idle: whether it has only the CPU that nobody else wants, as hostile clients do: the service would not share its
            machine with them.
    """

    def __init__(self, tenant: Tenant, behaviour: Behaviour, seconds: float, *, idle: bool) -> None:
        self.tenant = tenant
        context = multiprocessing.get_context("spawn")
        self._receiver, sender = context.Pipe(duplex=False)
        arguments = (tenant, behaviour, seconds, idle, sender)
        self._process = context.Process(target=_run, args=arguments, daemon=True)
        self._process.start()
        sender.close()  # ours: so that a tenant that dies is noticed

    def notes(self) -> Notes:
        """Return what it has noted, once it has ended."""
        try:
            notes: Notes = self._receiver.recv()
        except EOFError:
            notes = Notes(fault="its process died")
        self._process.join()
        return notes


def _run(tenant: Tenant, behaviour: Behaviour, seconds: float, idle: bool, parent: Connection) -> None:
    if idle:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    notes = Notes()
    asyncio.run(behaviour(tenant, seconds, notes))
    parent.send(notes)
