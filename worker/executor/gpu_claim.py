"""Workers of one machine share its GPUs out among themselves: each holds a lock on the one that it draws on."""

import fcntl
import os
from collections.abc import Sequence
from pathlib import Path

_held: list[int] = []  # the lock lasts as long as its file is open: till the process ends, in whatever way


def claim_first(gpus: Sequence[str], folder: Path) -> int:
    """Return the index of the first GPU that no worker holds, and hold it; the first one when all are held.

    Args and errors as of `claim_free`.
    """
    return claim_free(gpus, folder) or 0


def claim_free(gpus: Sequence[str], folder: Path) -> int | None:
    """Return the index of the first GPU that no worker holds, and hold it; None when all are held.

    Args:
        gpus: their UUIDs, the one to be preferred first.
        folder: of the locks; workers that share it (a volume, for containers) know of each other.

    Raises:
        OSError: the folder can't be made or written, or its file system has no locks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for index, gpu in enumerate(gpus):
        file = _open(folder / gpu)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
        except OSError as error:
            os.close(file)
            raise OSError(error.errno, f"can't be locked ({error.strerror})", str(folder / gpu)) from error
        else:
            _held.append(file)
            return index
    return None


def _open(file: Path) -> int:
    """Open a lock's file, or make it."""
    try:
        return os.open(file, os.O_RDWR | os.O_CREAT, 0o666)  # NFS locks only what may be written
    except PermissionError:
        if not file.exists():
            raise
        return os.open(file, os.O_RDONLY)  # another user's; enough on a disk
