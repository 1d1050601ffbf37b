"""The API process: decides whether it may listen where it is told to, waits for its servers, serves."""

import gc
import resource
import signal
import socket
import sys

import uvicorn
from fastapi import FastAPI

from api.app import create_app
from api.http.connections import protocol
from api.http.hosts import is_loopback
from api.http.room import OPEN_FILES, most_connections
from jobs.addresses import SettingError
from jobs.addresses.listening import EVERYWHERE
from jobs.keys import KeysFileError
from jobs.objects.images import ImageStore
from jobs.settings import Settings
from jobs.startup import UnreachableError, wait_for_redis, wait_for_s3
from jobs.store.redis_client import connect
from jobs.telemetry import trace_export
from jobs.telemetry.logs import configure_logging

GRACE_SECONDS = 5
# Of Python's garbage collector: a full look at all objects stops the process for 0.6 µs each, so for a third of a
# second while thousands of connections are open. By default that comes every few seconds; so, every minute or two.
GARBAGE_THRESHOLDS = (5000, 5, 50)


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        SettingError: settings contradict each other, or the keys file can't be used.
        SystemExit: with code 1 when a server is away, or the address is taken, after a line on stderr that says so.
    """
    configure_logging(settings.log_format)
    trace_export.start("zimage-api")
    if settings.api_keys_file and settings.allow_anonymous:
        raise SettingError("ZIMAGE_API_KEYS_FILE asks for keys and ZIMAGE_ALLOW_ANONYMOUS for none: unset one")
    if not is_loopback(settings.host) and not settings.api_keys_file and not settings.allow_anonymous:
        raise SettingError(
            f"{settings.host} is reachable from other machines and no API keys are configured: "
            "set ZIMAGE_API_KEYS_FILE (`zimage keys create` makes one), listen on 127.0.0.1, "
            "or set ZIMAGE_ALLOW_ANONYMOUS=true to let everyone in"
        )
    if settings.cors_origins == "*" and not settings.api_keys_file:
        raise SettingError(
            "ZIMAGE_CORS_ORIGINS=* would let the pages of all sites draw here, since no API keys are "
            "configured: name the origins, or set ZIMAGE_API_KEYS_FILE"
        )
    try:
        app = create_app(settings)
        app.openapi()  # made now: its first reader would hold up all others for a tenth of a second
        wait_for_redis(connect(settings), settings)
        wait_for_s3(ImageStore(settings), settings)
    except KeysFileError as error:
        raise SettingError(f"ZIMAGE_API_KEYS_FILE: {error}") from error
    except UnreachableError as error:
        sys.exit(f"zimage api: {error}")  # 1
    _allow_many_connections()
    gc.freeze()  # what is there by now stays
    gc.set_threshold(*GARBAGE_THRESHOLDS)
    server = _Server(_config(settings, app), app)
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn listens late, and once it has ended sends them again
        signal.signal(number, server.handle_exit)
    try:
        server.run()
    except SystemExit:  # uvicorn's, which has logged why
        sys.exit(f"zimage api: can't listen at {settings.host}:{settings.port} (ZIMAGE_HOST, ZIMAGE_PORT), see above")
    finally:
        trace_export.flush()


def _config(settings: Settings, app: FastAPI) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=protocol(settings.connections_per_address),
        ws="none",
        # "": a socket for each family that the machine has, so that clients' IPv4 addresses are not written as IPv6.
        host="" if settings.host == EVERYWHERE else settings.host,
        port=settings.port,
        access_log=False,
        log_config=None,
        proxy_headers=False,  # `api.http.prefix` reads them
        timeout_keep_alive=settings.keep_alive_seconds,
        # All that may come at once, before any of it is counted, has to find open files.
        backlog=min(2048, most_connections() // 8),
        timeout_graceful_shutdown=GRACE_SECONDS,
    )


class _Server(uvicorn.Server):
    """Answers those who wait for jobs before it ends: cut off after the grace they could not tell what came of it."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._state = app.state

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End in order (uvicorn)."""
        self._state.services.events.close()
        await super().shutdown(sockets)


def _allow_many_connections() -> None:
    # The usual soft limit of 1,024 is there for programs that use select(): others may go up to the hard one. macOS has
    # another besides, of 10,240 at least, and refuses what is above it.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        except ValueError:
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 10_240), hard))
