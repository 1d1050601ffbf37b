"""A receiver of webhooks: a real HTTP server that keeps what it gets and answers as it is told."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from standardwebhooks import Webhook

from api.webhooks.lookups import Lookup
from support.loopback import serving

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo="


@dataclass
class Received:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    def verified(self, secret: str = SECRET) -> Any:
        """Return the event; raises when no signature is by this secret."""
        return Webhook(secret).verify(self.body, self.headers)


@dataclass
class Receiver:
    url: str
    requests: list[Received] = field(default_factory=list)
    proceed: threading.Event = field(default_factory=threading.Event)  # answers wait for it


def pointing_to(*addresses: str) -> Lookup:
    """Return what resolves every name to these addresses."""
    return lambda _host, _port: addresses


def free_port() -> int:
    with contextlib.closing(socket.socket()) as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


@contextmanager
def receiver(
    answers: Sequence[int] = (), *, port: int = 0, location: str | None = None, tls: ssl.SSLContext | None = None
) -> Iterator[Receiver]:
    """Serve on loopback.

    Args:
        answers: statuses of the first answers; every later one is 204.
        port: 0 for any.
        location: where answers redirect to.
        tls: serves https.
    """
    statuses = iter(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            running.requests.append(Received(self.path, headers, body))
            running.proceed.wait(30)
            self.send_response(next(statuses, 204))
            if location:
                self.send_header("location", location)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    with serving(Handler, port, tls) as url:
        running = Receiver(f"{url}/hook")
        running.proceed.set()
        yield running
        running.proceed.set()
