"""How a command ends: one line on stderr for every error that a user can meet, and what signals do."""

import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import typer
from typer.core import TyperGroup

from cli.errors import ExitCode, UserError
from cli.extras import missing_extra
from cli.streams import any_output
from jobs.addresses import SettingError
from network.proxies import ProxyError
from zimage import ServiceError

RESEND_SECONDS = 0.05
SHORTEST_LIMIT = 1.0  # seconds: a look at a job takes some, too


class Interrupt(KeyboardInterrupt):
    """A signal that ends the command.

    Not `KeyboardInterrupt` itself: when that passes through `exec` of a string (a dataclass in a module that is just
    being imported), CPython ends the process by SIGINT afterwards, even if it was caught (`run_eval_code_obj`).
    """


class ZImageGroup(TyperGroup):
    """The command group; turns the errors that its commands raise into one line and an exit code."""

    def main(self, *arguments: Any, **options: Any) -> Any:
        """Run the command line and end the process."""
        with any_output():
            return super().main(*arguments, **options)

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command."""
        _send_again_when_swallowed(lambda: None)
        try:
            done = super().invoke(ctx)
            sys.stdout.flush()
            return done
        except UserError as error:
            message, code = str(error), error.exit_code
        except ServiceError as error:
            message, code = str(error), ExitCode.REFUSED
        except (ProxyError, SettingError) as error:
            message, code = str(error), ExitCode.USAGE
        except ModuleNotFoundError as error:
            extra = missing_extra(error)
            if extra is None:
                raise
            message, code = f"{error}: pip install 'zimage-service[{extra}]'", ExitCode.REFUSED
        except UnicodeEncodeError:  # of what came from the command line or the environment
            message, code = "an argument or a variable holds bytes that are not UTF-8", ExitCode.USAGE
        except OSError as error:
            if error.errno == errno.EPIPE:  # `zimage list | head`
                raise
            told = (str(part) for part in (error.filename, error.strerror) if part is not None)
            message, code = ": ".join(told) or str(error), ExitCode.REFUSED
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

    def listen() -> None:
        for number in signals:
            signal.signal(number, interrupt)

    before = {number: signal.getsignal(number) for number in signals}
    listen()
    _send_again_when_swallowed(listen)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def time_limit(seconds: float | None, job_id: str) -> Iterator[None]:
    """Give up a job that is waited for, whatever is being waited for just then: an event, a retry, a download.

    Args:
        seconds: after which; None: never, less than a second: after one.
        job_id: the job.

    Raises:
        UserError: the time is over.
    """
    if seconds is None:
        yield
        return
    message = f"gave up after {seconds:g} s, the job does not: `zimage wait {job_id}` goes on waiting"

    def over(_number: int, _frame: FrameType | None) -> None:
        raise UserError(message, ExitCode.TIMEOUT)

    before = signal.signal(signal.SIGALRM, over)
    # And every second from then on: Python drops what is raised while an object is destroyed.
    signal.setitimer(signal.ITIMER_REAL, max(seconds, SHORTEST_LIMIT), 1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _send_again_when_swallowed(listen: Callable[[], None]) -> None:
    """Have an interrupt sent again that Python dropped, as it drops all that is raised while an object is destroyed.

    Args:
        listen: makes the process ready to be interrupted once more.
    """

    def on_unraisable(dropped: "sys.UnraisableHookArgs") -> None:
        if not isinstance(dropped.exc_value, KeyboardInterrupt):
            sys.__unraisablehook__(dropped)
            return
        listen()
        threading.Timer(RESEND_SECONDS, os.kill, (os.getpid(), signal.SIGINT)).start()

    sys.unraisablehook = on_unraisable
