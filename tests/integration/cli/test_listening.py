"""`::` is every address of a machine: of both families, or of IPv4 alone where the kernel has no IPv6."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest

from cli.stack import Stack, ports
from support import without_ipv6
from support.waiting import wait_until

pytestmark = pytest.mark.skipif(not ports.is_free(0, "::1"), reason="this machine has no IPv6")

METRICS = """
import time
from jobs.settings import Settings
from worker.health import Health
Health(Settings())
time.sleep(60)
"""


@pytest.fixture(scope="module")
def found(servers: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, int]]:
    """Ports of processes that listen at `::`, on a machine with IPv6 and on one without."""
    names = ["api", "metrics", "api without", "metrics without"]
    assigned = ports.assign(tmp_path_factory.mktemp("listening") / "ports.json", names)
    with ExitStack() as running:
        for name, port in assigned.items():
            program = ["-m", "cli.main", "api"] if "api" in name else ["-c", METRICS]
            before = [sys.executable, without_ipv6.__file__] if "without" in name else []
            told = {"ZIMAGE_HOST": "::", "ZIMAGE_PORT": str(port), "ZIMAGE_ALLOW_ANONYMOUS": "true"}
            told |= {"ZIMAGE_METRICS_HOST": "::", "ZIMAGE_METRICS_PORT": str(port)}
            env = {**os.environ, **servers.environ(), **told}
            process = running.enter_context(subprocess.Popen([*before, sys.executable, *program], env=env))
            running.callback(process.terminate)
        for port in assigned.values():
            wait_until(lambda port=port: answers("127.0.0.1", port))  # type: ignore[misc]
        yield assigned


def answers(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as client:
        return client.connect_ex((host, port)) == 0


@pytest.mark.parametrize("program", ["api", "metrics"])
def test_it_is_there_by_both_families(found: dict[str, int], program: str) -> None:
    assert answers("127.0.0.1", found[program])
    assert answers("::1", found[program])


@pytest.mark.parametrize("program", ["api without", "metrics without"])
def test_without_ipv6_it_is_there_by_ipv4(found: dict[str, int], program: str) -> None:
    assert answers("127.0.0.1", found[program])
    assert not answers("::1", found[program])


@pytest.mark.parametrize("address", ["127.0.0.1", "[::1]"])
def test_a_proxy_on_loopback_is_believed(found: dict[str, int], address: str) -> None:
    """Seen as ::ffff:127.0.0.1, which a socket for both families would make of it, it would not be."""
    told = httpx.get(f"http://{address}:{found['api']}/v1/jobs/", headers={"X-Forwarded-Prefix": "/zimage"})
    assert told.headers["location"] == f"http://{address}:{found['api']}/zimage/v1/jobs"
