"""What becomes of a command's output where it can't go, in real processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.keys import KeysFile

ZIMAGE = [sys.executable, "-m", "cli.main"]


@pytest.fixture
def keys_list(tmp_path: Path) -> list[str]:
    """A command that prints a line."""
    path = tmp_path / "keys.json"
    KeysFile(path).create("alice")
    return [*ZIMAGE, "keys", "list", "--file", str(path)]


def test_a_reader_that_went_away_is_no_error_to_tell_of(keys_list: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as nobody:
        told = subprocess.run(keys_list, stdout=nobody, stderr=subprocess.PIPE, text=True, check=False)
    assert (told.returncode, told.stderr) == (1, "")


def test_a_full_disk_is_one_line(keys_list: list[str]) -> None:
    with open("/dev/full", "w") as full:
        told = subprocess.run(keys_list, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert told.returncode == 1
    assert told.stderr.startswith("zimage: ")
    assert "No space left on device" in told.stderr
    assert len(told.stderr.splitlines()) == 1


def test_without_stdout_and_stderr_a_command_does_its_work(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    closed = subprocess.run(
        ["sh", "-c", 'exec "$@" >&- 2>&-', "sh", *ZIMAGE, "keys", "create", "alice", "--file", str(path)], check=False
    )
    assert closed.returncode == 0
    assert [key.name for key in KeysFile(path).read()] == ["alice"]
