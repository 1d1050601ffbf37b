"""What signals do to a command."""

import subprocess
import sys

import pytest

INTERRUPTED_WHILE_IMPORTING = """
exec("signal.raise_signal(signal.SIGINT)")  # as while a module is imported that makes a dataclass
"""
INTERRUPTED_WHILE_CLEANING_UP = """
class Fragile:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

Fragile()
time.sleep(20)
"""
ORDERLY = """
import signal, time
from cli.exits import orderly_interrupts

with orderly_interrupts():
    try:
        exec({code!r})
    except KeyboardInterrupt:
        print("stopped")
"""
PLAIN = """
import signal, time
import typer
from cli.exits import ZImageGroup

app = typer.Typer(cls=ZImageGroup)

@app.callback()
def main() -> None:
    pass

@app.command()
def wait() -> None:
    exec({code!r}, globals())

app(["wait"])
"""


def run(program: str, code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program.format(code=code)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("code", [INTERRUPTED_WHILE_IMPORTING, INTERRUPTED_WHILE_CLEANING_UP])
def test_a_command_that_cleans_up_after_an_interrupt_ends_as_it_likes(code: str) -> None:
    told = run(ORDERLY, code)
    assert (told.returncode, told.stdout) == (0, "stopped\n")


def test_an_interrupt_that_python_dropped_still_ends_a_command() -> None:
    told = run(PLAIN, INTERRUPTED_WHILE_CLEANING_UP)
    assert (told.returncode, told.stderr) == (130, "zimage: interrupted\n")
