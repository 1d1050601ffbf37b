"""What an operator reads when API or worker can't start: one line that says what is wrong and which setting it is."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cli.stack import Stack
from pipeline import TINY_CHECKPOINT


def start(program: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cli.main", program],
        env={**os.environ, "ZIMAGE_STARTUP_TIMEOUT": "1", "ZIMAGE_METRICS_PORT": "0", "ZIMAGE_PORT": "0", **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def last_line(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode not in (0, None)
    assert "Traceback" not in result.stderr
    return result.stderr.strip().split("\n")[-1]


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.parametrize("program", ["api", "worker"])
def test_redis_is_not_there(program: str, servers: Stack, closed_port: int) -> None:
    env = {**servers.environ(), "ZIMAGE_REDIS_URL": f"redis://:secret@127.0.0.1:{closed_port}/0"}
    line = last_line(start(program, env))
    assert f"127.0.0.1:{closed_port}" in line
    assert "ZIMAGE_REDIS_URL" in line
    assert "within 1 s" in line
    assert "secret" not in line
    assert "S3" not in line


@pytest.mark.parametrize("program", ["api", "worker"])
def test_s3_is_not_there(program: str, servers: Stack, closed_port: int) -> None:
    line = last_line(start(program, {**servers.environ(), "ZIMAGE_S3_ENDPOINT": f"http://127.0.0.1:{closed_port}"}))
    assert f"127.0.0.1:{closed_port}" in line
    assert "ZIMAGE_S3_ENDPOINT" in line


def test_the_bucket_is_not_there(servers: Stack) -> None:
    line = last_line(start("api", {**servers.environ(), "ZIMAGE_S3_BUCKET": "nowhere"}))
    assert "bucket nowhere (ZIMAGE_S3_BUCKET)" in line


def test_s3_refuses_the_key(servers: Stack) -> None:
    line = last_line(start("api", {**servers.environ(), "AWS_SECRET_ACCESS_KEY": "wrong"}))
    assert "AWS_SECRET_ACCESS_KEY" in line


def test_the_api_does_not_serve_everybody_by_accident(servers: Stack) -> None:
    line = last_line(start("api", {**servers.environ(), "ZIMAGE_HOST": "0.0.0.0"}))
    assert "ZIMAGE_ALLOW_ANONYMOUS" in line


def test_the_device_is_not_there(servers: Stack) -> None:
    line = last_line(start("worker", {**servers.environ(), "ZIMAGE_DEVICE": "cuda:99"}))
    assert "ZIMAGE_DEVICE: device is cuda:99" in line


def test_the_checkpoint_lacks_a_file(servers: Stack, tmp_path: Path) -> None:
    broken = tmp_path / "model"
    shutil.copytree(TINY_CHECKPOINT, broken)
    (broken / "vae" / "config.json").unlink()
    line = last_line(start("worker", {**servers.environ(), "ZIMAGE_MODEL": str(broken), "ZIMAGE_DEVICE": "cpu"}))
    assert str(broken / "vae" / "config.json") in line


def test_a_stack_whose_model_is_not_there_ends_and_says_so(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "cli.main", "up", "--port", "0", "--data", str(tmp_path), "--model", "/no/model"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "/no/model" in last_line(result)


@pytest.mark.parametrize(("name", "value"), [("ZIMAGE_REDIS_URL", "localhost"), ("ZIMAGE_URL_TTL", "soon")])
def test_a_setting_that_can_not_be_read_is_named(name: str, value: str) -> None:
    result = start("api", {name: value})
    assert result.returncode == 2
    assert name in last_line(result)
