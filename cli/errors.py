"""The errors that a user can meet, and the exit codes that tell scripts how a command ended."""

from enum import IntEnum


class ExitCode(IntEnum):
    """What scripts can tell from a command's end."""

    DONE = 0
    REFUSED = 1  # the service or this machine said no
    USAGE = 2
    JOB_FAILED = 3  # the job ended as failed, canceled or expired
    TIMEOUT = 4  # gave up waiting
    INTERRUPTED = 130


class UserError(Exception):
    """An error whose text tells a user in one line what is wrong and what to do; ends a command with `exit_code`."""

    def __init__(self, message: str, exit_code: ExitCode = ExitCode.REFUSED) -> None:
        super().__init__(message)
        self.exit_code = exit_code
