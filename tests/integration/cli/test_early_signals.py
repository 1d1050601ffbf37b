"""API and worker hear SIGTERM and SIGINT from their first line on, also as the first process of a container."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from cli.stack import Stack
from pipeline import TINY_CHECKPOINT
from support.waiting import wait_until

FIRST_OF_A_CONTAINER = ["unshare", "--fork", "--pid", "--mount-proc", "--kill-child"]
NAMESPACES = (
    shutil.which("unshare") is not None
    and not subprocess.run([*FIRST_OF_A_CONTAINER, "true"], capture_output=True, check=False).returncode
)  # not in a container that may make none


@contextmanager
def program(
    name: str, env: dict[str, str], before: list[str]
) -> Iterator[tuple[subprocess.Popen[str], psutil.Process]]:
    """Start a program, by a command before it or none; give what was started, and the program itself."""
    started = subprocess.Popen(
        [*before, sys.executable, "-m", "cli.main", name],
        env={**os.environ, "ZIMAGE_METRICS_PORT": "0", "ZIMAGE_PORT": "0", **env},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        outer = psutil.Process(started.pid)
        if before:
            wait_until(outer.children)
        yield started, outer.children()[0] if before else outer
    finally:
        started.kill()
        started.communicate()


def hears_sigterm(process: psutil.Process) -> bool:
    """Whether a process has a handler of its own for it (`SigCgt` of proc(5))."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    caught = next(int(line.split()[1], 16) for line in lines if line.startswith("SigCgt"))
    return bool(caught >> (signal.SIGTERM - 1) & 1)


def ended(started: subprocess.Popen[str], name: str, number: signal.Signals) -> None:
    _, told = started.communicate(timeout=60)
    assert told.splitlines()[-1] == f"zimage {name}: {number.name} before it was ready: stopped"
    assert "Traceback" not in told
    assert started.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("name", ["api", "worker"])
def test_before_anything_is_imported(name: str, number: signal.Signals) -> None:
    with program(name, {}, []) as (started, process):
        wait_until(lambda: hears_sigterm(process))  # Python itself hears SIGINT
        process.send_signal(number)
        ended(started, name, number)


@pytest.mark.skipif(not NAMESPACES, reason="no namespace of processes can be made here")
def test_while_it_waits_for_redis_as_the_first_process_of_a_container() -> None:
    env = {"ZIMAGE_REDIS_URL": "redis://127.0.0.1:9/0"}
    with program("api", env, FIRST_OF_A_CONTAINER) as (started, process):
        assert started.stderr
        told = next(line for line in started.stderr if "waiting up to" in line)
        assert "Redis" in told
        process.terminate()
        ended(started, "api", signal.SIGTERM)


def test_while_a_worker_loads_its_model(servers: Stack, tmp_path: Path) -> None:
    model, slow = tmp_path / "model", tmp_path / "model" / "model_index.json"
    shutil.copytree(TINY_CHECKPOINT, model)
    slow.unlink()
    os.mkfifo(slow)  # read for as long as nothing comes

    writers: list[int] = []

    def is_loading() -> bool:
        try:
            writers.append(os.open(slow, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:  # nobody reads it yet
            return False
        return True

    env = {**servers.environ(), "ZIMAGE_MODEL": str(model), "ZIMAGE_DEVICE": "cpu"}
    before = FIRST_OF_A_CONTAINER if NAMESPACES else []
    with program("worker", env, before) as (started, process):
        wait_until(is_loading)
        process.terminate()
        ended(started, "worker", signal.SIGTERM)
    os.close(writers[0])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_api_that_serves_ends_in_order(servers: Stack, number: signal.Signals) -> None:
    with program("api", servers.environ(), []) as (started, process):
        assert started.stderr
        next(line for line in started.stderr if "Uvicorn running" in line)
        process.send_signal(number)
        _, told = started.communicate(timeout=60)
        assert "Finished server process" in told
        assert "before it was ready" not in told
        assert started.returncode == 0
