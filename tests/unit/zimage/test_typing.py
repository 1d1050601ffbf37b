"""What a type checker says to a program that uses the installed client."""

import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from support.root import ROOT

PROGRAM = """\
from zimage import AsyncZImageClient, ZImageClient

client = ZImageClient("http://127.0.0.1:8000")
job = client.submit({"prompt": "a cat", "width": 128})
reveal_type(job["images"][0]["sha256"])
client.submit({"prompt": "a cat", "width": "wide"})
client.progres(job["id"])
"""


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """The interpreter of an environment into which the wheel was put."""
    source = tmp_path / "source"
    for folder in ("jobs", "zimage"):  # jobs has the version
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    offline = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation"]
    command = [sys.executable, "-m", "pip", "wheel", *offline, "--wheel-dir", str(tmp_path), str(source)]
    subprocess.run(command, check=True)
    venv.create(tmp_path / "venv", symlinks=True)
    (packages,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(packages)
    return tmp_path / "venv" / "bin" / "python"


def test_the_installed_client_is_typed(python: Path, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, "-m", "mypy", "--strict", "--python-executable", str(python), "--cache-dir", "cache"]
    told = subprocess.run([*command, program.name], cwd=tmp_path, capture_output=True, text=True, check=False).stdout
    assert 'program.py:5: note: Revealed type is "str"' in told
    assert "program.py:6: error: Incompatible types" in told
    assert 'program.py:7: error: "ZImageClient" has no attribute "progres"' in told
    assert "Found 2 errors in 1 file" in told
