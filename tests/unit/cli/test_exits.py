"""What signals do to a command."""

import subprocess
import sys

COMMAND = """
import signal
from cli.exits import orderly_interrupts

with orderly_interrupts():
    try:
        exec("signal.raise_signal(signal.SIGINT)")  # as while a module is imported that makes a dataclass
    except KeyboardInterrupt:
        print("stopped")
"""


def test_a_command_that_caught_its_interrupt_ends_as_it_likes() -> None:
    told = subprocess.run([sys.executable, "-c", COMMAND], capture_output=True, text=True, check=False)
    assert (told.returncode, told.stdout) == (0, "stopped\n")
