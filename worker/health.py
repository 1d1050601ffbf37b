"""What Prometheus and an orchestrator ask a worker, on its metrics port: `/metrics`, `/livez`, `/readyz`.

They tell five states apart. A worker that is starting, draining, deaf (it hears nothing of Redis) or stuck (S3 takes no
images) is alive and not ready: it takes no job, and a new process would do no better. One whose heartbeat stands still
is hung, and not alive.
A device that hangs ends the process by itself (`worker.executor.watchdog`).
"""

import threading
from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client import start_http_server

from jobs.addresses import SettingError
from jobs.addresses.listening import of_one_socket
from jobs.settings import Settings
from worker.claims.leases import Leases

HUNG_SECONDS = 60.0  # a call to Redis, tried again, ends earlier

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]  # WSGI (PEP 3333)


class Health:
    """Answers from the process's first second on.

    Args:
        settings: where to listen, and how long a lease is.

    Raises:
        SettingError: the address can't be listened on.
    """

    def __init__(self, settings: Settings) -> None:
        self._lease_seconds = settings.lease_seconds
        self._leases: Leases | None = None
        self._draining = threading.Event()
        self._trouble: Callable[[], str | None] = lambda: None
        try:
            server, _ = start_http_server(settings.metrics_port, of_one_socket(settings.metrics_host))
        except OSError as error:
            address = f"ZIMAGE_METRICS_HOST={settings.metrics_host}, ZIMAGE_METRICS_PORT={settings.metrics_port}"
            raise SettingError(f"{address}: {error}") from error
        self._metrics: Application = server.get_app()  # type: ignore[assignment]
        server.set_app(self._answer)
        self.port = server.server_port

    def warm(self, leases: Leases, draining: threading.Event, trouble: Callable[[], str | None]) -> None:
        """Tell of a worker that takes jobs from now on, until `draining` is set, and while it has no `trouble`."""
        self._leases, self._draining, self._trouble = leases, draining, trouble

    def _unready(self) -> str | None:
        if self._leases is None:
            return "starting: servers are waited for, or the model is loaded"
        if self._draining.is_set():
            return "draining: jobs at hand go on, no other is taken"
        silence = self._leases.since_renewed()
        if silence > self._lease_seconds:
            return f"deaf: Redis (ZIMAGE_REDIS_URL) has not answered for {silence:.0f} s"
        trouble = self._trouble()
        return f"stuck: {trouble}" if trouble else None

    def _dead(self) -> str | None:
        still = self._leases.since_tried() if self._leases else 0.0
        return f"hung: the heartbeat has stood still for {still:.0f} s" if still > HUNG_SECONDS else None

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        checks = {"/livez": self._dead, "/readyz": self._unready}
        check = checks.get(environ["PATH_INFO"])
        if check is None:
            return self._metrics(environ, start_response)
        wrong = check()
        start_response("503 Service Unavailable" if wrong else "200 OK", [("Content-Type", "text/plain")])
        return [f"{wrong or 'ok'}\n".encode()]
