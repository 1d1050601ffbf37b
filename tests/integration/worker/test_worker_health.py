"""What a worker tells an orchestrator while it starts, works, hears nothing of Redis, and leaves."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from cli.stack import Stack
from zimage import JobRequest, ZImageClient


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Stack]:
    with Stack(tmp_path, workers=0, env={"ZIMAGE_LEASE_SECONDS": "6"}) as running:
        yield running


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def eventually(look: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not look():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def test_starting_ready_deaf_and_draining_are_told_apart(own: Stack) -> None:
    port = free_port()
    environ = {**os.environ, **own.environ(), "ZIMAGE_LEASE_SECONDS": "6", "ZIMAGE_METRICS_PORT": str(port)}
    worker = subprocess.Popen([sys.executable, "-m", "cli.main", "worker"], env=environ)

    def ask(path: str) -> tuple[int, str]:
        try:
            answer = httpx.get(f"http://127.0.0.1:{port}{path}", timeout=30)
        except httpx.ConnectError:
            return 0, ""
        return answer.status_code, answer.text

    def unready(word: str) -> bool:
        status, text = ask("/readyz")
        return status == 503 and text.startswith(word)

    try:
        eventually(lambda: unready("starting"), "a starting worker says so")
        assert ask("/livez") == (200, "ok\n")
        eventually(lambda: ask("/readyz") == (200, "ok\n"), "it gets ready")
        assert "zimage_worker_info{" in ask("/metrics")[1]

        valkey = own.pids()["valkey"]
        os.kill(valkey, signal.SIGSTOP)
        try:
            eventually(lambda: unready("deaf: Redis (ZIMAGE_REDIS_URL)"), "without Redis it is deaf")
            assert ask("/livez") == (200, "ok\n")
        finally:
            os.kill(valkey, signal.SIGCONT)
        eventually(lambda: ask("/readyz") == (200, "ok\n"), "it hears again")

        with ZImageClient(own.api_url) as client:
            long: JobRequest = {"prompt": "a red circle", "width": 256, "height": 256, "num_inference_steps": 50}
            job = client.submit(long)["id"]
            eventually(lambda: client.get(job)["status"] == "running", "it draws")
            worker.terminate()
            eventually(lambda: unready("draining"), "it drains")
            assert ask("/livez") == (200, "ok\n")
            assert client.get(job, wait=60)["status"] == "succeeded"
        assert worker.wait(60) == 0
    finally:
        worker.kill()
        worker.wait()


def test_a_port_in_use_is_told(servers: Stack) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ran = subprocess.run(
            [sys.executable, "-m", "cli.main", "worker"],
            env={**os.environ, **servers.environ(), "ZIMAGE_METRICS_PORT": str(port)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert ran.returncode == 2
    assert ran.stderr.startswith(f"zimage worker: ZIMAGE_METRICS_HOST=127.0.0.1, ZIMAGE_METRICS_PORT={port}: ")
    assert "in use" in ran.stderr


def test_a_worker_leaves_also_when_redis_takes_nothing_back(own: Stack) -> None:
    environ = {**os.environ, **own.environ(), "ZIMAGE_DRAIN_SECONDS": "1", "ZIMAGE_METRICS_PORT": str(free_port())}
    worker = subprocess.Popen([sys.executable, "-m", "cli.main", "worker"], env=environ)
    valkey = own.pids()["valkey"]
    try:
        with ZImageClient(own.api_url) as client:
            long: JobRequest = {"prompt": "a red circle", "width": 512, "height": 512, "num_inference_steps": 50}
            job = client.submit(long)["id"]
            eventually(lambda: client.get(job)["status"] == "running", "it draws")
        os.kill(valkey, signal.SIGSTOP)  # connections stay open, and nobody answers
        worker.terminate()
        assert worker.wait(60) == 0
    finally:
        os.kill(valkey, signal.SIGCONT)
        worker.kill()
        worker.wait()
