"""What `zimage configure` prints is read by what it is for: a shell, compose, kustomize; all of it says the same."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from cli.configure.forms import COMPOSE_FILE, FORMS, OVERLAY, Form
from cli.main import app
from jobs.settings import Settings
from support.kubernetes_objects import KUBERNETES, ROOT, environment, kustomize, workload

Said = tuple[dict[str, str], int]  # the variables of a worker, and how many workers


def in_shell(folder: Path, script: str) -> Said:
    """What a shell runs: here it prints how `zimage` is called."""
    (folder / "zimage").write_text('#!/bin/sh\nenv -0; printf "%s" "$*"\n')
    (folder / "zimage").chmod(0o755)
    path = f"{folder}:{os.environ['PATH']}"
    ran = subprocess.run(
        ["sh", "-ec", script], cwd=folder, env={"PATH": path}, capture_output=True, text=True, check=True
    )
    *variables, command = ran.stdout.split("\0")
    words = command.split()
    assert words[0] == "up"
    return dict(line.split("=", 1) for line in variables), int(words[2]) if words[1:] else 1


def as_env(folder: Path, text: str) -> Said:
    (folder / "zimage.env").write_text(text)
    return in_shell(folder, text.splitlines()[1].lstrip("# "))


def as_commands(folder: Path, text: str) -> Said:
    return in_shell(folder, text)


def as_compose(folder: Path, text: str) -> Said:
    """What podman-compose makes of it, on top of the project's files; it asks podman for its version alone."""
    (folder / COMPOSE_FILE).write_text(text)
    (folder / "podman").write_text("#!/bin/sh\necho podman version 5.0.0\n")
    (folder / "podman").chmod(0o755)
    files = [word for word in text.splitlines()[1].split() if word.endswith(".yml")]
    paths = [folder / name if name == COMPOSE_FILE else ROOT / name for name in files]
    options = [word for path in paths for word in ("--file", str(path))]
    command = [sys.executable, "-m", "podman_compose", *options, "--env-file", str(ROOT / ".env.example"), "config"]
    secrets = dict.fromkeys(("S3_SECRET_KEY", "WEBHOOK_SECRET", "GRAFANA_PASSWORD"), "secret")
    env = {**os.environ, **secrets, "PATH": f"{folder}:{os.environ['PATH']}"}
    ran = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=True)
    services = yaml.safe_load(ran.stdout)["services"]
    assert services["worker"]["deploy"].get("resources") or "docker-compose.gpu.yml" not in files
    assert services["api"]["environment"]["ZIMAGE_MODEL"] == services["worker"]["environment"]["ZIMAGE_MODEL"]
    return services["worker"]["environment"], services["worker"]["deploy"]["replicas"]


def as_kubernetes(folder: Path, text: str) -> Said:
    shutil.copytree(KUBERNETES, folder / "deploy/kubernetes")
    (folder / OVERLAY).mkdir()
    (folder / OVERLAY / "kustomization.yaml").write_text(text)
    objects = kustomize(folder / OVERLAY)
    return environment(objects, "zimage-worker"), workload(objects, "zimage-worker")["spec"]["replicas"]


READERS: dict[Form, Callable[[Path, str], Said]] = {
    "env": as_env,
    "compose": as_compose,
    "kubernetes": as_kubernetes,
    "commands": as_commands,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("arguments", "expected", "workers"),
    [
        (["--gpu", "cpu"], {"ZIMAGE_MODEL": "tiny", "ZIMAGE_DEVICE": "cpu"}, 1),
        (
            ["--gpu", "RTX 4060", "--gpus", "2"],
            {"ZIMAGE_DEVICE": "gpu", "ZIMAGE_QUANTIZATION": "fp8", "ZIMAGE_VRAM_BUDGET": "7GiB"},
            2,
        ),
    ],
    ids=["cpu", "two cards"],
)
def test_it_says_what_is_to_run(
    form: Form, arguments: list[str], expected: dict[str, str], workers: int, tmp_path: Path
) -> None:
    text = CliRunner().invoke(app, ["configure", *arguments, "--format", form]).stdout
    variables, count = READERS[form](tmp_path, text)
    assert {name: variables.get(name) for name in expected} == expected
    assert count == workers
    assert expected.keys() <= {f"ZIMAGE_{name.upper()}" for name in Settings.model_fields}
