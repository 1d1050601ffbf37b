"""The embedded stack: real servers from wheels (Valkey, SeaweedFS), the API and workers, on loopback, in one directory.

The directory holds everything; a stack started on it again goes on with its data and, where they are free, its ports:

    pids.json         {"valkey": 1, "s3": 2, "api": 3, "workers": [4, 5]}, rewritten whenever a part is started
    endpoints.json    {"api": "http://127.0.0.1:8000", "redis": "redis://:password@127.0.0.1:11000/0",
                      "s3": "http://127.0.0.1:11001", "bucket": "zimage", "workers": ["http://127.0.0.1:11009/metrics"]}
    credentials.json  the S3 key pair and Valkey's password, made at first use; mode 0600
    logs/NAME.log     valkey, s3, api, worker-1 …; emptied when a stack starts
    valkey/ s3/ cache/ ports.json lock

A stack of servers alone has no "api" and no "workers" in them; both JSON files go when it stops.

Other users of the machine reach every port. They are answered by the API and the workers' metrics as anybody is, by
nothing else: Valkey asks for a password, S3 for signatures, the rest of SeaweedFS for its own certificate.
"""

import fcntl
import functools
import json
import logging
import os
import secrets
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cli.errors import UserError
from cli.stack import parts, ports
from cli.stack.private_files import write_private
from cli.stack.supervisor import Part, Supervisor
from cli.stack.weed_identity import write_identity
from jobs.addresses.listening import EVERYWHERE, in_url

log = logging.getLogger(__name__)

START_SECONDS = 90.0
STARTS = 3  # before others that take the ports are given up against
POLL_SECONDS = 0.05


class StackError(UserError):
    """The stack can't run; the message is one line that says why and what to do."""


class Stack:
    """A stack; use it as a context manager, or call `start` and `stop`."""

    def __init__(
        self,
        data_dir: Path | str,
        *,
        workers: int = 1,
        services: bool = True,
        model: str | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        env: Mapping[str, str] | None = None,
        module: str = "cli.main",
    ) -> None:
        """Describe a stack; nothing is started or written yet.

        Args:
            data_dir: where everything is kept.
            workers: how many workers.
            services: False runs the servers alone, without API and workers.
            model: `ZIMAGE_MODEL` of API and workers; None: from the environment, else the bundled one.
            host: address that the API listens on.
            port: port that the API listens on; 0: the one remembered for this directory, or any free one.
            env: more environment for API and workers, over this process's own.
            module: what API and workers run, called as `zimage` is.
        """
        self.data_dir = Path(data_dir).absolute()
        self._workers = [f"worker-{number}" for number in range(1, workers + 1)] if services else []
        self._services = services
        self._host = host
        self._port = port
        self._env = {**({"ZIMAGE_MODEL": model} if model else {}), **(env or {})}
        self._lock: int | None = None
        self._site = parts.Site(self.data_dir, {}, {}, "", module)
        self._supervisor: Supervisor | None = None

    @property
    def api_url(self) -> str:
        """Address of the API, as this machine reaches it."""
        everywhere = self._host in (EVERYWHERE, "0.0.0.0")  # noqa: S104
        return self._api_url("127.0.0.1" if everywhere else self._host)

    @property
    def listen_url(self) -> str:
        """Address of the API, as it was asked for."""
        return self._api_url(self._host)

    def _api_url(self, host: str) -> str:
        return f"http://{in_url(host)}:{self._site.ports['api']}"

    @property
    def redis_url(self) -> str:
        """Address of Valkey, password included."""
        return self._site.redis_url

    @property
    def s3_url(self) -> str:
        """Address of the S3 server."""
        return self._site.s3_url

    @property
    def worker_metrics_urls(self) -> list[str]:
        """Addresses of the workers' metrics."""
        return [f"http://127.0.0.1:{self._site.ports[name]}/metrics" for name in self._workers]

    def environ(self) -> dict[str, str]:
        """Return the environment in which a process of ours finds this stack's servers, S3 credentials included."""
        return self._site.environ

    def pids(self) -> dict[str, Any]:
        """Return the process ids of the parts, in the shape of `pids.json`."""
        return self._by_part(self._supervisor.pids()) if self._supervisor else {}

    def start(self) -> None:
        """Start everything; return when the servers answer and, if there is an API, jobs can be posted.

        Raises:
            StackError: the directory is in use, or not this user's, a port is taken, or a part does not start.
            OSError: the directory can't be written.
        """
        for left in reversed(range(STARTS)):
            try:
                self._site = self._prepare()
                self._supervisor = Supervisor(self._stages(), self._write_pids)
                self._supervisor.start()
                self._wait_until_ready(self._supervisor)
                return
            except BaseException as error:
                self.stop()
                # All of ours have stopped: who has a port now took it before the part that it was chosen for.
                chosen = [port for port in self._site.ports.values() if port != self._port]
                if not (left and isinstance(error, StackError) and ports.are_taken(chosen)):
                    raise
                log.warning("%s: another program has taken a port, starting again with others", error)

    def stop(self) -> None:
        """Stop everything: workers first, with time to finish, then the API, SeaweedFS and Valkey."""
        if self._supervisor:
            self._supervisor.stop()
            self._supervisor = None
            parts.weed_remove_sockets(self._site)
            for name in ("pids.json", "endpoints.json"):
                (self.data_dir / name).unlink(missing_ok=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def wait_for_worker(self) -> None:
        """Return once the first worker takes jobs: `start` returns before, since loading may take minutes.

        Raises:
            StackError: it can't start, or takes too long; the message says what it said.
        """
        name = self._workers[0]
        address = f"http://127.0.0.1:{self._site.ports[name]}"
        if self._supervisor:
            deadline = time.monotonic() + START_SECONDS
            self._wait_for(name, functools.partial(parts.is_ready, address), self._supervisor, deadline)

    def wait(self) -> str:
        """Block for as long as the stack is kept running; return why it no longer is."""
        return self._supervisor.wait() if self._supervisor else "the stack is not running"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _prepare(self) -> parts.Site:
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = self.data_dir.stat()
        if found.st_uid != os.geteuid() or found.st_mode & stat.S_IWOTH:  # the passwords could be theirs
            raise StackError(
                f"other users can put files into {self.data_dir}: chown and chmod it, or choose another --data"
            )
        self._take_lock()
        for folder in (self.data_dir / "valkey", self.data_dir / "s3", self.data_dir / "logs"):
            folder.mkdir(mode=0o700, exist_ok=True)
            folder.chmod(0o700)  # whatever it was, and whoever may enter the directory
        credentials = self._load_credentials()
        password = credentials.pop("redis_password")
        write_private(self.data_dir / "valkey" / parts.VALKEY_SECRETS, f"requirepass {password}\n")
        write_identity(self.data_dir / "s3")
        names = ["valkey", *parts.WEED_PORTS, *(["api", *self._workers] if self._services else [])]
        assigned = ports.assign(self.data_dir / "ports.json", names)
        if self._services and self._port:
            if not ports.is_free(self._port, self._host):
                raise StackError(f"can't listen on {self._host}, port {self._port}: choose another --port, 0 for any")
            assigned["api"] = self._port
        return parts.Site(self.data_dir, assigned, credentials, password, self._site.module)

    def _take_lock(self) -> None:
        self._lock = os.open(self.data_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(self._lock, 32, 0).decode()
            raise StackError(
                f"{self.data_dir} is in use by process {owner}: stop that one, or choose another --data"
            ) from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, str(os.getpid()).encode(), 0)

    def _load_credentials(self) -> dict[str, str]:
        path = self.data_dir / "credentials.json"
        kept: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
        credentials = {
            "AWS_ACCESS_KEY_ID": secrets.token_hex(10),
            "AWS_SECRET_ACCESS_KEY": secrets.token_urlsafe(32),
            "redis_password": secrets.token_hex(32),  # directories of 0.2.0 and before have none
            **kept,
        }
        if credentials != kept:
            self._write_json(path.name, credentials)
        return credentials

    def _stages(self) -> list[list[Part]]:
        stages = [[parts.valkey(self._site)], [parts.weed(self._site)]]
        if self._services:
            environ = {**os.environ, **self._env, **self.environ()}
            for name in parts.OTHER_KEYS:
                environ.pop(name, None)
            devices = parts.devices(len(self._workers), environ)
            workers = [
                parts.worker(self._site, environ, name, device, len(self._workers))
                for name, device in zip(self._workers, devices, strict=True)
            ]
            stages += [[parts.api(self._site, environ, self._host)], workers]
        return stages

    def _wait_until_ready(self, supervisor: Supervisor) -> None:
        self._write_endpoints()
        checks: dict[str, Callable[[], bool]] = {
            "valkey": functools.partial(parts.valkey_ready, self._site),
            "s3": functools.partial(parts.bucket_ready, self._site),
        }
        if self._services:
            checks["api"] = functools.partial(parts.is_ready, self.api_url)
        deadline = time.monotonic() + START_SECONDS
        for name, ready in checks.items():
            self._wait_for(name, ready, supervisor, deadline)

    def _wait_for(self, name: str, ready: Callable[[], bool], supervisor: Supervisor, deadline: float) -> None:
        while not ready():
            if hopeless := supervisor.hopeless():
                raise StackError(hopeless)
            if time.monotonic() > deadline:
                raise StackError(f"{name} is not ready after {START_SECONDS:.0f} s: see {self._site.log(name)}")
            time.sleep(POLL_SECONDS)

    def _by_part(self, values: Mapping[str, int]) -> dict[str, Any]:
        single: dict[str, Any] = {name: value for name, value in values.items() if name not in self._workers}
        if self._services:
            single["workers"] = [values[name] for name in self._workers if name in values]
        return single

    def _write_pids(self, pids: Mapping[str, int]) -> None:
        try:
            self._write_json("pids.json", self._by_part(pids))
        except OSError as error:  # a full disk is no reason to stop
            log.warning("pids.json not written: %s", error)

    def _write_endpoints(self) -> None:
        endpoints: dict[str, Any] = {"redis": self.redis_url, "s3": self.s3_url, "bucket": parts.BUCKET}
        if self._services:
            endpoints |= {"api": self.api_url, "workers": self.worker_metrics_urls}
        self._write_json("endpoints.json", endpoints)

    def _write_json(self, name: str, value: object) -> None:
        write_private(self.data_dir / name, json.dumps(value))


def use_running(data_dir: Path) -> None:
    """Let this process's environment name the servers of the stack that runs on a directory.

    Raises:
        StackError: none does.
    """
    try:
        endpoints, credentials = (
            json.loads((data_dir / name).read_text()) for name in ("endpoints.json", "credentials.json")
        )
    except FileNotFoundError:
        raise StackError(f"no stack runs on {data_dir}: start it with `zimage up --data {data_dir}`") from None
    for name in parts.OTHER_KEYS:
        os.environ.pop(name, None)
    credentials.pop("redis_password", None)  # it is in the address; a stack of 0.2.0 that still runs has none
    os.environ.update(parts.servers_environ(endpoints["redis"], endpoints["s3"], credentials))
