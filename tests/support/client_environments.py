"""Environments for clients that others wrote: a venv for each of `tests/clients/requirements`, and Node's packages.

They are made at first use, in `.clients`, and anew when another version is pinned. The project's own environment knows
nothing of them.
"""

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from support.root import ROOT

CLIENTS = ROOT / "tests" / "clients"
CACHE = ROOT / ".clients"
# TypeScript's compiler at its strictest; what it makes, Node runs.
TSC = ("tsc", "--strict", "--target", "es2022", "--module", "commonjs", "--moduleResolution", "node10")


def run(*command: str | Path, cwd: Path | None = None, **environ: str) -> str:
    """Run a command and return what it printed.

    Raises:
        AssertionError: it failed; with all that it said.
    """
    env = {**os.environ, **environ}
    done = subprocess.run(
        command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@functools.cache
def venv(name: str) -> Path:
    """Return the folder of the programs of the venv with what `requirements/NAME.txt` pins."""
    folder = CACHE / name
    pinned = CLIENTS / "requirements" / f"{name}.txt"
    if not _is_made(folder, pinned):
        run(sys.executable, "-m", "venv", "--clear", folder)
        pip = (folder / "bin" / "python", "-m", "pip", "--disable-pip-version-check")
        run(*pip, "install", "--no-deps", "--requirement", pinned)  # all is pinned: nothing is left to choose
        _stamp(folder, pinned)
    return folder / "bin"


@functools.cache
def packages() -> Path:
    """Return the folder whose `node_modules` has what `package-lock.json` pins."""
    folder = CACHE / "packages"
    pinned = CLIENTS / "package-lock.json"
    if not _is_made(folder, pinned):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for file in (pinned, CLIENTS / "package.json"):
            shutil.copy(file, folder)
        run("npm", "ci", "--no-audit", "--no-fund", cwd=folder, PATH=with_node())
        _stamp(folder, pinned)
    return folder


def node(*command: str | Path, cwd: Path | None = None, **environ: str) -> str:
    """Run `node`, or a program of the packages, as `run` does."""
    path = f"{packages() / 'node_modules' / '.bin'}:{with_node()}"
    return run(*command, cwd=cwd, **{**environ, "PATH": path})


def with_node() -> str:
    """Return a `PATH` that has `node` and `npm`."""
    return f"{venv('node')}:{os.environ['PATH']}"


def workspace(name: str) -> Path:
    """Return a fresh copy of a folder of `tests/clients` where its scripts find Node's packages."""
    folder = packages() / name
    shutil.rmtree(folder, ignore_errors=True)
    return Path(shutil.copytree(CLIENTS / name, folder))


def version(package: str, environment: str | None) -> str:
    """Return a package's name and version; `environment` is its venv, None: Node's packages."""
    if environment is None:
        installed = json.loads((packages() / "node_modules" / package / "package.json").read_text())["version"]
    else:
        script = f"from importlib.metadata import version; print(version({package!r}), end='')"
        installed = run(venv(environment) / "python", "-c", script)
    return f"{package} {installed}"


def _is_made(folder: Path, pinned: Path) -> bool:
    stamp = folder / "made-of"
    return stamp.exists() and stamp.read_text() == pinned.read_text()


def _stamp(folder: Path, pinned: Path) -> None:
    (folder / "made-of").write_text(pinned.read_text())
