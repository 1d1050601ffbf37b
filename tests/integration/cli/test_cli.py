"""The `zimage` command against a running service, as a shell sees it: stdout, stderr, exit codes."""

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from cli.main import app
from cli.stack import Stack
from pipeline import TINY_CHECKPOINT
from support.halting import halted
from support.proxying import proxy
from zimage.client import ZImageClient

SMALL = ["--width", "64", "--height", "64", "--steps", "2"]
SLOW = ["--width", "1024", "--height", "1024", "--steps", "50"]


class Shell:
    """Runs `zimage` in a folder, with the service's address in the environment."""

    def __init__(self, folder: Path, environ: dict[str, str]) -> None:
        self.folder = folder
        self._environ = {**os.environ, **environ}

    def start(self, *arguments: str, **environ: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "cli.main", *arguments],
            cwd=self.folder,
            env={**self._environ, **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *arguments: str, code: int = 0, **environ: str) -> str:
        """Return what was printed on stdout."""
        with self.start(*arguments, **environ) as process:
            printed, self.told = process.communicate(timeout=120)
        assert process.returncode == code, self.told
        assert "Traceback" not in self.told
        return printed

    def json(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(self(*arguments, "--json", code=code))


@pytest.fixture
def zimage(stack: Stack, tmp_path: Path) -> Shell:
    return Shell(tmp_path, {"ZIMAGE_URL": stack.api_url})


def test_submit_wait_status(zimage: Shell) -> None:
    printed = zimage("submit", "a red fox", *SMALL, "--seed", "5", "--num-images", "2", "--metadata", "order=1=7")
    job_id = printed.strip()
    assert printed == f"{job_id}\n"
    assert zimage.told.startswith("warning: the bundled model draws well at 128x128")

    files = zimage("wait", job_id, "--out", "pictures").splitlines()
    assert files == [f"pictures/{job_id}-0.png", f"pictures/{job_id}-1.png"]
    progress, warning, timings = zimage.told.splitlines()[-3:]
    assert progress == "succeeded 2/2"
    assert warning.startswith("warning: the bundled model draws well at 128x128")
    assert "denoise" in timings

    job = zimage.json("status", job_id)
    assert job["status"] == "succeeded"
    assert job["input"]["metadata"] == {"order": "1=7"}
    for image, file in zip(job["images"], files, strict=True):
        content = (zimage.folder / file).read_bytes()
        assert hashlib.sha256(content).hexdigest() == image["sha256"]
    assert zimage("status", job_id).splitlines()[0].startswith(f"{job_id}\tsucceeded\t")
    assert len(zimage("wait", job_id).splitlines()) == 2  # without --out: URLs


def test_every_field_of_a_job_has_an_option(zimage: Shell) -> None:
    fields = {"--negative-prompt": "blur", "--guidance": "1.5", "--priority": "low", "--timeout": "600"}
    job = zimage.json("submit", "a cat", *SMALL, *(word for pair in fields.items() for word in pair))
    expected = {
        "prompt": "a cat",
        "negative_prompt": "blur",
        "guidance_scale": 1.5,
        "priority": "low",
        "timeout_seconds": 600,
        "width": 64,
        "num_inference_steps": 2,
    }
    assert {name: job["input"][name] for name in expected} == expected


def test_a_job_that_does_not_succeed_ends_wait_with_3(zimage: Shell, stack: Stack) -> None:
    job_id = zimage("submit", "a cat", *SLOW).strip()
    zimage("wait", job_id, "--timeout", "0", code=4)
    assert f"`zimage wait {job_id}`" in zimage.told
    with ZImageClient(stack.api_url) as client:
        next(job for job in client.progress(job_id) if job["status"] == "running")
    with halted(stack.pids()["workers"]):
        assert zimage("cancel", job_id) == "canceling\n"
        assert zimage("list", "--limit", "1").startswith(f"{job_id}\tcanceling\t")
        waiting = zimage.start("wait", job_id)
        assert waiting.stderr
        assert waiting.stderr.readline().startswith("canceling")
    _, told = waiting.communicate(timeout=120)
    assert waiting.returncode == 3
    assert told.splitlines()[-1] == f"zimage: {job_id} canceled"
    assert zimage.json("wait", job_id, code=3)["status"] == "canceled"


def test_wait_can_be_interrupted(zimage: Shell) -> None:
    job_id = zimage("submit", "a cat", *SLOW).strip()
    with zimage.start("wait", job_id) as process:
        assert process.stderr
        process.stderr.readline()  # it shows progress, so it waits
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    zimage("cancel", job_id)


def test_list(zimage: Shell, stack: Stack) -> None:
    with ZImageClient(stack.api_url) as client:
        jobs = [client.submit({"prompt": f"cat\n{index}", "width": 64, "height": 64}) for index in range(3)]
        for job in jobs:
            client.cancel(job["id"]) if job is not jobs[1] else None
    newest = [job["id"] for job in reversed(jobs)]
    assert [job["id"] for job in zimage.json("list", "--limit", "3")] == newest
    lines = zimage("list", "--limit", "3").splitlines()
    assert [line.split("\t")[0] for line in lines] == newest
    assert lines[0].endswith("\tcat 2")
    zimage("wait", newest[1])
    assert newest[1] in zimage("list", "--status", "succeeded")
    assert newest[1] not in zimage("list", "--status", "canceled")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-16"])
def test_any_encoding_takes_what_is_printed(stack: Stack, monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    """In this process: only the stream counts."""

    class Terminal(io.TextIOWrapper):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", "100")
    prompt = "a café… 猫 🦊 " + "×" * 200
    with ZImageClient(stack.api_url) as client:
        job_id = client.submit({"prompt": prompt, "width": 64, "height": 64})["id"]
        client.cancel(job_id)

    def printed(*options: str, stream: type[io.TextIOWrapper] = io.TextIOWrapper) -> str:
        written = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", stream(written, encoding=encoding))
        with pytest.raises(SystemExit) as ended:
            app(["list", "--limit", "1", "--url", stack.api_url, *options])
        assert not ended.value.code
        return written.getvalue().decode(encoding)

    assert json.loads(printed("--json"))[0]["input"]["prompt"] == prompt
    assert printed().startswith(job_id)
    shown = prompt if encoding.startswith("utf") else prompt.encode(encoding, "replace").decode(encoding)
    assert printed().rstrip("\n").endswith(f"\t{shown}")
    header, line = printed(stream=Terminal).splitlines()
    assert line[header.index("prompt") :].startswith(shown[:7])
    assert len(line) <= 100


def test_the_command_line_is_read_as_utf_8_in_any_locale(zimage: Shell) -> None:
    c = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    job = json.loads(zimage("submit", "a café… 猫", *SMALL, "--json", **c))
    assert job["input"]["prompt"] == "a café… 猫"
    assert zimage("status", "job_\udce9", code=2) == ""
    assert zimage.told == "zimage: an argument or a variable holds bytes that are not UTF-8\n"


def test_refusals_are_one_line(zimage: Shell) -> None:
    assert zimage("status", "job_unknown", code=1) == ""
    assert len(zimage.told.splitlines()) == 1
    zimage("submit", "a cat", "--width", "100", code=1)
    assert "/width" in zimage.told
    zimage("list", "--status", "sleeping", code=1)


def test_a_picture_from_the_service_is_the_one_drawn_here(zimage: Shell, stack: Stack) -> None:
    # In the served model's size
    asked = ["generate", "a red fox", "--negative-prompt", "blur", "--steps", "2", "--seed", "11"]
    asked += ["--step-cache", '{"mask": "10"}']
    for out, environ in {"service.png": {}, "new/here.png": {"ZIMAGE_URL": ""}}.items():
        assert zimage(*asked, "--out", out, **environ) == f"{out}\n"
        warned = [line.startswith("warning: the negative prompt has no effect") for line in zimage.told.splitlines()]
        assert warned[0]  # before it draws
        assert sum(warned) == 1
        assert zimage.told.splitlines()[-1] == "skipped layers in 1 of 2 steps"
    service, here = (Image.open(zimage.folder / name) for name in ("service.png", "new/here.png"))
    assert service.tobytes() == here.tobytes()
    assert service.info["parameters"] == here.info["parameters"]


def test_generate_prints_json(zimage: Shell) -> None:
    job = zimage.json("generate", "a red fox", *SMALL)
    (image,) = job["images"]
    assert image["path"] == f"out/{job['id']}.png"
    assert hashlib.sha256((zimage.folder / image["path"]).read_bytes()).hexdigest() == image["sha256"]


def test_doctor_finds_a_healthy_stack_and_a_wrong_address(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Shell(tmp_path, {}).json("doctor", "--data", str(stack.data_dir))
    findings = {(finding["check"], finding["level"]) for finding in told}
    assert {("redis", "ok"), ("s3", "ok"), ("settings", "ok")} <= findings
    assert not {level for check, level in findings if check in ("redis", "s3", "model")} - {"ok"}

    shutil.copytree(TINY_CHECKPOINT, tmp_path / "model")
    (tmp_path / "model/tokenizer/tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\n")
    monkeypatch.chdir(tmp_path)
    wrong = {
        "ZIMAGE_REDIS_URL": "redis://:hidden@127.0.0.1:1",
        "ZIMAGE_S3_BUCKET": "nowhere",
        "ZIMAGE_MODEL": "model",
        "ZIMAGE_VAE": "/no/vae",
        "ZIMAGE_API_KEYS_FILE": "/no/keys.json",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318",
    }
    done = CliRunner(env={**stack.environ(), **wrong}).invoke(app, ["doctor"])
    assert done.exit_code == 1
    printed = done.output
    failed = [line.split()[1] for line in printed.splitlines() if line.startswith("fail")]
    assert failed == ["redis", "s3", "model", "vae", "keys", "traces"]
    assert "model/tokenizer/tokenizer.json: is a Git LFS pointer" in printed
    for setting in ("ZIMAGE_VAE=/no/vae: ", "ZIMAGE_API_KEYS_FILE: /no/keys.json: ", "OTEL_EXPORTER_OTLP_ENDPOINT: "):
        assert setting in printed
    assert "ZIMAGE_REDIS_URL" in printed
    assert "hidden" not in printed


def test_checkpoint_random_draws(tmp_path: Path) -> None:
    zimage = Shell(tmp_path, {})
    assert zimage("checkpoint", "random", "--size", "tiny", "made") == "made\n"
    again = CliRunner().invoke(app, ["checkpoint", "random", str(tmp_path / "made")])
    assert again.exit_code == 1
    assert again.stderr == f"zimage: {tmp_path / 'made'}: exists and is not empty: choose a new directory\n"
    assert zimage("generate", "a cat", *SMALL, "--model", "made", "--out", "cat.png") == "cat.png\n"
    assert Image.open(tmp_path / "cat.png").size == (64, 64)


def test_demo(tmp_path: Path) -> None:
    with proxy() as refusing:
        zimage = Shell(tmp_path, {"HTTP_PROXY": refusing.url, "all_proxy": "socks5://nowhere", "NO_PROXY": "[::1]"})
        printed = zimage("demo")
    assert refusing.asked == []  # what runs here is reached directly
    (picture,) = (tmp_path / "out").iterdir()
    assert f"picture: out/{picture.name}" in printed
    assert "X-Amz-Signature=" in printed
    assert "total" in zimage.told
    assert Image.open(picture).size == (128, 128)
    assert not (tmp_path / ".zimage/pids.json").exists()
