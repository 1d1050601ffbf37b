"""How a command ends: one line on stderr for every error that a user can meet, and what signals do."""

import errno
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import typer
from typer.core import TyperGroup

from cli.errors import ExitCode, UserError


class Interrupt(KeyboardInterrupt):
    """A signal that ends the command.

    Not `KeyboardInterrupt` itself: when that passes through `exec` of a string (a dataclass in a module that is just
    being imported), CPython ends the process by SIGINT afterwards, even if it was caught (`run_eval_code_obj`).
    """


class ZImageGroup(TyperGroup):
    """The command group; turns the errors that its commands raise into one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command."""
        try:
            return super().invoke(ctx)
        except UserError as error:
            message, code = str(error), error.exit_code
        except OSError as error:
            if error.errno == errno.EPIPE:  # `zimage list | head`
                raise
            message, code = str(error), ExitCode.REFUSED
        except KeyboardInterrupt:
            message, code = "interrupted", ExitCode.INTERRUPTED
        print(f"zimage: {' '.join(message.split())}", file=sys.stderr)
        raise typer.Exit(code)


@contextmanager
def orderly_interrupts() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end a command as Ctrl-C does; signals after the first don't disturb its cleaning up."""
    signals = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # else: nohup
        signals.append(signal.SIGHUP)

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        for number in signals:
            signal.signal(number, signal.SIG_IGN)
        raise Interrupt

    before = {number: signal.signal(number, interrupt) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
