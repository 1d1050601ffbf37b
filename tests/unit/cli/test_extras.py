"""What works without the optional parts of the installation, and what the rest says then."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from cli.extras import EXTRAS

# Runs the command line in a Python that lacks some packages.
WITHOUT = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
"""


def declared() -> dict[str, list[str]]:
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {"": project["dependencies"], **project["optional-dependencies"]}
    return {extra: [re.split(r"[\[>]", text)[0].lower() for text in wanted] for extra, wanted in extras.items()}


def run(code: str, *missing: str, arguments: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    script = WITHOUT.format(missing=missing) + code
    return subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=60)


def zimage(*arguments: str, extra: str) -> subprocess.CompletedProcess[str]:
    return run("from cli.main import app; app()", *EXTRAS[extra], arguments=arguments)


def test_every_module_that_is_told_of_comes_with_its_extra() -> None:
    owners = packages_distributions()
    wanted = declared()
    for extra, modules in EXTRAS.items():
        for module in modules:
            assert {name.lower() for name in owners[module]} & set(wanted[extra]), module
            assert not {name.lower() for name in owners[module]} & set(wanted[""]), module


def test_api_and_command_line_need_no_extra() -> None:
    missing = [module for modules in EXTRAS.values() for module in modules]
    ran = run("import api.server, cli.main, zimage, cli.stack", *missing)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize(
    ("extra", "command"),
    [
        ("worker", ["worker"]),
        ("worker", ["generate", "a cat", "--model", "tiny"]),
        ("worker", ["checkpoint", "random", "new"]),
        ("embedded", ["up", "--port", "0"]),
        ("embedded", ["demo"]),
    ],
)
def test_a_command_names_the_extra_that_it_lacks(
    extra: str, command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))
    monkeypatch.chdir(tmp_path)
    ran = zimage(*command, extra=extra)
    assert ran.returncode == 1
    last = ran.stderr.strip().splitlines()[-1]
    assert re.fullmatch(rf"zimage: No module named '[\w.]+': pip install 'zimage-service\[{extra}\]'", last), ran.stderr


def test_the_doctor_does_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZIMAGE_CACHE_DIR", str(tmp_path))
    ran = zimage("doctor", extra="worker")
    assert "Traceback" not in ran.stderr
    assert re.search(r"warn +torch +not installed", ran.stdout), ran.stdout
