"""stdout and stderr as commands find them: of any encoding, closed, full, or a pipe that nobody reads any more."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def any_output() -> Iterator[None]:
    """Let a command print what it likes: what stdout's encoding lacks is a `?`, as wide as most characters.

    stderr has Python's own way: it shows such characters as escapes.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed, and `print` to no stderr would go to stdout
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - till the process ends
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    try:
        yield
    finally:
        try:
            sys.stdout.flush()
        except OSError:  # the command told of it; Python would try once more at its end, and complain
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
