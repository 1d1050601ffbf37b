"""`::` is every address of a machine: of both families, or of IPv4 alone where the kernel has no IPv6."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from cli.stack import Stack, ports
from support import without_ipv6
from support.waiting import wait_until

pytestmark = pytest.mark.skipif(not ports.is_free(0, "::1"), reason="this machine has no IPv6")

WITHOUT_IPV6 = (sys.executable, without_ipv6.__file__)
PREFIX = {"X-Forwarded-Prefix": "/zimage"}
METRICS = """
import time
from jobs.settings import Settings
from worker.health import Health
Health(Settings())
time.sleep(60)
"""


@contextmanager
def process(*command: str, port: int, env: dict[str, str]) -> Iterator[None]:
    """A process that listens."""
    with subprocess.Popen(command, env={**os.environ, **env}, stderr=subprocess.PIPE, text=True) as running:
        try:
            wait_until(lambda: running.poll() is not None or answers("127.0.0.1", port))
            yield
        finally:
            running.terminate()


@contextmanager
def api(servers: Stack, port: int, *before: str) -> Iterator[None]:
    env = {**servers.environ(), "ZIMAGE_HOST": "::", "ZIMAGE_PORT": str(port), "ZIMAGE_ALLOW_ANONYMOUS": "true"}
    with process(*before, sys.executable, "-m", "cli.main", "api", port=port, env=env):
        yield


def answers(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as client:
        return client.connect_ex((host, port)) == 0


@pytest.fixture
def port(tmp_path: Path) -> int:
    return ports.assign(tmp_path / "ports.json", ["one"])["one"]


def test_the_api_is_there_by_both_families_and_knows_an_ipv4_client_by_its_address(servers: Stack, port: int) -> None:
    with api(servers, port):
        for address in ("127.0.0.1", "[::1]"):
            # A proxy on loopback is believed: ::ffff:127.0.0.1 would not be.
            told = httpx.get(f"http://{address}:{port}/v1/jobs/", headers=PREFIX)
            assert told.headers["location"].endswith("/zimage/v1/jobs")


def test_the_api_is_there_without_ipv6(servers: Stack, port: int) -> None:
    with api(servers, port, *WITHOUT_IPV6):
        assert answers("127.0.0.1", port)
        assert not answers("::1", port)


@pytest.mark.parametrize(("before", "families"), [((), ("127.0.0.1", "::1")), (WITHOUT_IPV6, ("127.0.0.1",))])
def test_a_worker_s_metrics_are_there(port: int, before: Sequence[str], families: Sequence[str]) -> None:
    env = {"ZIMAGE_METRICS_HOST": "::", "ZIMAGE_METRICS_PORT": str(port)}
    with process(*before, sys.executable, "-c", METRICS, port=port, env=env):
        assert [address for address in ("127.0.0.1", "::1") if answers(address, port)] == list(families)
