"""What commands say and how they end where no server is needed."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from cli.results import output_path
from cli.stack import ports
from cli.stack.parts import devices

NOBODY = "http://127.0.0.1:1"


def zimage(*arguments: str, limit: float | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cli.main", *arguments]
    environment = {**os.environ, **environ}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=limit)


def test_help_documents_the_exit_codes() -> None:
    told = zimage("--help", COLUMNS="200")
    assert told.returncode == 0
    assert "3 the job ended as failed, canceled or expired" in told.stdout
    commands = ["up", "demo", "api", "worker", "generate", "submit", "status", "wait", "cancel", "list", "doctor"]
    for command in [*commands, "checkpoint", "configure", "dead", "prune"]:
        assert re.search(rf"\b{command}\b", told.stdout)


@pytest.mark.parametrize("command", ["--help", "status job_1"])
def test_light_commands_import_nothing_heavy(command: str) -> None:
    arguments = [*command.split(), *(["--url", NOBODY] if command.startswith("status") else [])]
    told = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "cli.main", *arguments], capture_output=True, text=True, check=False
    )
    imported = {line.rpartition("|")[2].strip() for line in told.stderr.splitlines() if line.startswith("import time")}
    assert "zimage.client" in imported
    assert not imported & {"torch", "transformers", "celery", "boto3", "redis", "fastapi"}


@pytest.mark.parametrize("command", ["api", "worker", "up", "demo"])
def test_a_wrong_setting_is_one_line_that_names_its_variable(command: str, tmp_path: Path) -> None:
    told = zimage(
        command, *(["--data", str(tmp_path)] if command in ("up", "demo") else []), ZIMAGE_LEASE_SECONDS="soon"
    )
    assert told.returncode == 2
    assert told.stderr.splitlines()[-1].startswith("zimage: wrong setting: ZIMAGE_LEASE_SECONDS=soon: ")
    assert len(told.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("command", "code"), [("list --url http://service.example", 1), ("prune", 2)], ids=["by HTTP", "by S3"]
)
def test_a_proxy_that_is_none_is_one_line_that_names_its_variable(command: str, code: int) -> None:
    told = zimage(
        *command.split(), http_proxy="http://me:secret@proxy:port", ZIMAGE_S3_ENDPOINT="http://s3.example", no_proxy="["
    )
    assert told.returncode == code
    assert told.stderr.startswith("zimage: http_proxy=…: names no proxy")
    assert len(told.stderr.splitlines()) == 1


def test_wait_gives_up_in_time_also_where_no_answer_comes() -> None:
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        url = f"http://127.0.0.1:{hanging.getsockname()[1]}"
        told = zimage("wait", "job_1", "--timeout", "1", "--url", url, limit=20)
    assert told.returncode == 4
    assert "gave up after 1 s" in told.stderr
    assert len(told.stderr.splitlines()) == 1


def test_an_unreachable_service_is_one_line_with_what_to_do() -> None:
    told = zimage("status", "job_1", "--url", NOBODY)
    assert told.returncode == 1
    assert told.stdout == ""
    assert "zimage up" in told.stderr
    assert len(told.stderr.splitlines()) == 1


def test_an_address_that_can_not_be_read_is_one_line() -> None:
    told = zimage("status", "job_1", "--url", "http://localhost:port")
    assert told.returncode == 1
    assert "http://HOST:PORT" in told.stderr
    assert len(told.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["submit"],
        ["submit", "a cat", "--width", "wide"],
        ["submit", "a cat", "--metadata", "nonsense"],
        ["generate", "a cat", "--width", "100"],
        ["generate", " "],
        ["generate", "a cat", "--model", "tiny", "--url", NOBODY],
        ["list", "--limit", "0"],
        ["nonsense"],
    ],
)
def test_wrong_usage_ends_with_2(arguments: list[str]) -> None:
    told = zimage(*arguments)
    assert told.returncode == 2
    assert told.stderr
    assert "Traceback" not in told.stderr


def test_generate_refuses_a_checkpoint_that_is_not_there(tmp_path: Path) -> None:
    told = CliRunner().invoke(app, ["generate", "a cat", "--model", str(tmp_path / "nothing")])
    assert told.exit_code == 1
    assert re.search("^zimage: .*: no such directory, .*\n$", told.output, re.MULTILINE)


def test_a_checkpoint_is_quantised_once(tmp_path: Path) -> None:
    told = zimage("checkpoint", "quantize", "tiny", str(tmp_path / "fp8"))
    assert told.returncode == 0, told.stderr
    assert told.stdout == f"{tmp_path / 'fp8'}\n"

    again = CliRunner().invoke(app, ["checkpoint", "quantize", "tiny", str(tmp_path / "fp8")])
    twice = CliRunner().invoke(app, ["checkpoint", "quantize", str(tmp_path / "fp8"), str(tmp_path / "twice")])
    for refused, reason in ((again, "is not empty: choose a new directory"), (twice, "in fp8 already")):
        assert refused.exit_code == 1
        assert refused.stdout == ""
        assert re.fullmatch(f"zimage: .*{reason}.*\n", refused.stderr)


def test_up_refuses_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        told = zimage("up", "--port", str(port), "--data", str(tmp_path))
    assert told.returncode == 1
    assert told.stdout == ""
    assert f"can't listen on 127.0.0.1, port {port}" in told.stderr.splitlines()[-1]


def test_images_go_to_a_file_or_a_folder(tmp_path: Path) -> None:
    assert output_path(tmp_path / "new/fox.png", "job_1", 0, 1) == tmp_path / "new/fox.png"
    assert output_path(tmp_path / "fox.png", "job_1", 1, 2) == tmp_path / "fox-1.png"
    assert output_path(tmp_path / "out", "job_1", 0, 1) == tmp_path / "out/job_1.png"
    assert output_path(tmp_path / "v1.5", "job_1", 1, 2) == tmp_path / "v1.5/job_1-1.png"
    assert (tmp_path / "new").is_dir()
    assert (tmp_path / "v1.5").is_dir()


def test_ports_are_remembered_and_replaced_when_taken(tmp_path: Path) -> None:
    memory = tmp_path / "ports.json"
    first = ports.assign(memory, ["a", "b"])
    assert len(set(first.values())) == 2
    assert ports.assign(memory, ["a", "b"]) == first
    with socket.create_server(("127.0.0.1", first["a"])):
        second = ports.assign(memory, ["a", "c"])
    assert second["a"] != first["a"]
    assert json.loads(memory.read_text()) == {**second, "b": first["b"]}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"CUDA_VISIBLE_DEVICES": "0,1,2"}, ["cuda:0", "cuda:1"]),
        ({"CUDA_VISIBLE_DEVICES": "3"}, ["cuda:0", "cuda:0"]),
        ({"CUDA_VISIBLE_DEVICES": ""}, ["cpu", "cpu"]),
        ({"CUDA_VISIBLE_DEVICES": "0,1", "ZIMAGE_DEVICE": "cpu"}, ["cpu", "cpu"]),
        ({"CUDA_VISIBLE_DEVICES": "0,1", "ZIMAGE_DEVICE": "gpu"}, ["gpu", "gpu"]),
    ],
)
def test_each_worker_gets_a_device(environ: dict[str, str], expected: list[str]) -> None:
    assert devices(2, environ) == expected


@pytest.mark.parametrize(("model", "told"), [("tiny", False), ("Tongyi-MAI/Z-Image-Turbo", True)])
def test_whoever_has_no_gpu_is_told_what_that_means(caplog: pytest.LogCaptureFixture, model: str, told: bool) -> None:
    assert devices(1, {"CUDA_VISIBLE_DEVICES": "", "ZIMAGE_MODEL": model}) == ["cpu"]
    assert (f": {model} is drawn on the CPU, which takes minutes" in caplog.text) is told
