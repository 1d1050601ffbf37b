"""SIGTERM and SIGINT from the first line of API and worker on: until they serve, there is nothing to finish.

The kernel keeps a container's first process from signals that it does not handle, and importing, waiting for servers,
downloading and loading may take minutes. Imports nothing of ours, and is imported first of all.
"""

import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType

PROGRAMS = ("api", "worker")
STDERR = 2


def hear(arguments: Sequence[str]) -> None:
    """Have this process end at once, with exit code 0, if the command is one of the programs; others end as they do.

    What is downloaded by halves stays where it is. A program that serves puts handlers of its own in place of these.

    Args:
        arguments: of the command line, without the name of the command itself.
    """
    if not arguments or arguments[0] not in PROGRAMS:
        return

    def end(number: int, _frame: FrameType | None) -> None:
        told = f"zimage {arguments[0]}: {signal.Signals(number).name} before it was ready: stopped\n"
        with suppress(OSError):  # by hand: the log may be in the midst of a line
            os.write(STDERR, told.encode())
        os._exit(0)  # threads may be anywhere

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
