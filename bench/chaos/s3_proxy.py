"""A proxy in front of S3 that can be told to refuse: what a store that is overloaded or misconfigured answers.

Requests are passed on as they came, `Host` included, since signatures cover it.
"""

import contextlib
import http.client
import http.server
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message

REFUSALS = {503: "SlowDown", 403: "AccessDenied"}


@dataclass(frozen=True)
class Request:
    """What a client asks of S3; `path` has the query too."""

    method: str
    path: str
    headers: Message
    body: bytes


def error(code: str, **more: str) -> str:
    """Return the body of an answer that refuses."""
    elements = {"Code": code, "Message": "by the proxy", **more}
    return f"<Error>{''.join(f'<{name}>{value}</{name}>' for name, value in elements.items())}</Error>"


class S3Proxy:
    """Listens on a free port of loopback.

    Args:
        target: returns the port of the real S3, which may not be known yet when the proxy starts.
    """

    def __init__(self, target: Callable[[], int]) -> None:
        self._refusal: int | None = None
        self._refused = ""
        self.refused_jobs: set[str] = set()  # those whose uploads were refused since `refuse` was last called
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                request = Request(self.command, self.path, self.headers, body)
                if refusal := proxy.refusal(request):
                    status, answer = refusal
                    self._answer(status, {"Content-Type": "application/xml"}, answer.encode())
                    return
                upstream = http.client.HTTPConnection("127.0.0.1", target(), timeout=60)
                try:
                    upstream.request(self.command, self.path, body, dict(self.headers.items()))
                    response = upstream.getresponse()
                    answered = response.read()
                    if self.command != "HEAD":
                        answered = proxy.changed(request, answered)
                    self._answer(response.status, dict(response.getheaders()), answered)
                except OSError:
                    self.close_connection = True  # as if S3 itself had hung up
                finally:
                    upstream.close()

            def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response_only(status)
                for name, value in headers.items():
                    if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                        self.send_header(name, value)
                length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(body))
                self.send_header("Content-Length", length)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

            def handle(self) -> None:
                with contextlib.suppress(ConnectionError):  # clients are killed in the midst of a request here
                    super().handle()

            do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_any  # noqa: N815 - the base class's names

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()  # seconds to stop in

    def refusal(self, request: Request) -> tuple[int, str] | None:
        """Return the status and the body with which to answer a request in place of S3; None passes it on."""
        if self._refusal is None or not re.match(self._refused, f"{request.method} {request.path}"):
            return None
        if request.method == "PUT":
            self.refused_jobs.add(request.path.split("/")[3])  # /bucket/prefix/job/attempt/index
        return self._refusal, error(REFUSALS[self._refusal])

    def changed(self, _request: Request, body: bytes) -> bytes:
        """Return what to answer in place of the body of S3's answer."""
        return body

    def refuse(self, status: int | None, requests: str = "") -> None:
        """Answer with this status from now on what begins so (a regular expression, "PUT /b"); None: pass all on."""
        self.refused_jobs = set()
        self._refused = requests
        self._refusal = status

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
