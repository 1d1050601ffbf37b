"""Files on a network file system, read ahead of their use by several threads, in large pieces.

Mapped alone they come with the kernel's read-ahead of a file that is read by one: one or two requests of 128 to 256 KiB
at a time, each a journey long. What is read here goes into the page cache, where the mapping finds it; that gives way
where memory is needed, so at worst a page is fetched twice.
"""

import logging
import os
import threading
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from network.file_systems import remote_type

log = logging.getLogger(__name__)

THREADS = 16  # requests at once, of which network file systems answer that many beside each other
PIECE = 4 * 2**20  # bytes that one of them reads at a time


def read_ahead(paths: Sequence[Path]) -> None:
    """Begin to read files that are on a network file system, and return at once; others are let be."""
    remote = [path for path in paths if remote_type(path)]
    if not remote:
        return
    log.info("%s: on %s, so it is read ahead", remote[0].parent, remote_type(remote[0]))
    # Each file is opened once, and before any of it is read: at an open FUSE forgets what it has read of a file.
    with ExitStack() as opened, suppress(OSError):  # where this fails, so will the mapping
        pieces = []
        for path in remote:
            file = os.open(path, os.O_RDONLY)
            opened.callback(os.close, file)
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_SEQUENTIAL)  # the kernel asks for twice as much at a time
            pieces += [(file, start) for start in range(0, os.fstat(file).st_size, PIECE)]
        _Reading(pieces, opened.pop_all())


class _Reading:
    """Threads that read pieces of files, each a file and where it starts, and close the files after the last."""

    def __init__(self, pieces: Sequence[tuple[int, int]], files: ExitStack) -> None:
        self._pieces, self._files = iter(pieces), files
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._read, daemon=True) for _ in range(THREADS)]
        self._at_work = THREADS
        for thread in self._threads:
            thread.start()

    def _read(self) -> None:
        with suppress(OSError):
            while piece := self._next():
                os.pread(piece[0], PIECE, piece[1])
        with self._lock:
            self._at_work -= 1
            if not self._at_work:
                self._files.close()

    def _next(self) -> tuple[int, int] | None:
        with self._lock:
            return next(self._pieces, None)
