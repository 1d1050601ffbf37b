"""What `zimage configure` prints for a shell starts the service."""

import os
import signal
import subprocess
import sysconfig
from pathlib import Path

import httpx
from typer.testing import CliRunner

from cli.main import app
from support.waiting import wait_until


def test_its_commands_start_a_service_with_a_worker(tmp_path: Path) -> None:
    # The other forms say the same to the letter (tests/unit/deployment/test_configured_forms.py).
    (tmp_path / "start.sh").write_text(
        CliRunner().invoke(app, ["configure", "--gpu", "cpu", "--format", "commands"]).stdout
    )
    path = f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "ZIMAGE_PORT": "0"}
    with subprocess.Popen(
        ["sh", "start.sh"], cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().removeprefix("ready ").strip()
            wait_until(lambda: httpx.get(f"{url}/v1/queue").json()["workers"] == 1)
            assert httpx.get(f"{url}/v1/models").json()["data"][0]["id"]
        finally:
            os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C
