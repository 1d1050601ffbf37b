"""An HTTP proxy on loopback that keeps what it is asked for, and refuses it or passes it on."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlsplit

import pytest

from support.loopback import serving

VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@dataclass
class Proxy:
    url: str
    asked: list[str] = field(default_factory=list)  # URLs, or host and port of a CONNECT


@contextmanager
def proxy(to: str | None = None) -> Iterator[Proxy]:
    """Serve one.

    Args:
        to: the server that every request is passed on to, whatever host it names; None: all are refused (403).
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            running.asked.append(self.path)
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            if to is None:
                self.send_error(403)
                return
            path = urlsplit(self.path)._replace(scheme="", netloc="").geturl()
            server = HTTPConnection(urlsplit(to).netloc)
            server.request(self.command, path, body, dict(self.headers.items()))
            answer = server.getresponse()
            content = answer.read()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_CONNECT = answer  # noqa: N815

        def log_message(self, *arguments: object) -> None:
            pass

    with serving(Handler) as url:
        running = Proxy(url)
        yield running


def set_proxies(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    """Let the environment say this about proxies, and nothing else."""
    for name in list(os.environ):
        if name.lower() in VARIABLES:
            monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
