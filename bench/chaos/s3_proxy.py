"""A proxy in front of S3 that can be told to refuse: what a store that is overloaded or misconfigured answers.

Requests are passed on as they came, `Host` included, since signatures cover it.
"""

import contextlib
import http.client
import http.server
import re
import threading
from collections.abc import Callable

REFUSALS = {503: "SlowDown", 403: "AccessDenied"}


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
                refusal = proxy._refusal
                if refusal is not None and re.match(proxy._refused, f"{self.command} {self.path}"):
                    if self.command == "PUT":
                        proxy.refused_jobs.add(self.path.split("/")[3])  # /bucket/prefix/job/attempt/index
                    code = REFUSALS[refusal]
                    answer = f"<Error><Code>{code}</Code><Message>by the proxy</Message></Error>".encode()
                    self._answer(refusal, {"Content-Type": "application/xml"}, answer)
                    return
                upstream = http.client.HTTPConnection("127.0.0.1", target(), timeout=60)
                try:
                    upstream.request(self.command, self.path, body, dict(self.headers.items()))
                    response = upstream.getresponse()
                    self._answer(response.status, dict(response.getheaders()), response.read())
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
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def refuse(self, status: int | None, requests: str = "") -> None:
        """Answer with this status from now on what begins so (a regular expression, "PUT /b"); None: pass all on."""
        self.refused_jobs = set()
        self._refused = requests
        self._refusal = status

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
