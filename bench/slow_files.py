"""A folder as a slow network file system would show it: FUSE, with a delay before each answer to a read.

    python -m bench.slow_files FOLDER MOUNT [--milliseconds N]      # until SIGTERM, or the mount is gone

As root, with libfuse 3. Requests are answered beside each other, as a server's would be.
"""
# ruff: noqa: ARG002 - the arguments are FUSE's

import argparse
import errno
import os
import sys
import time
from pathlib import Path
from typing import Any

import mfusepy

THREADS = 64  # requests answered at once


class SlowFiles(mfusepy.Operations):  # type: ignore[misc]
    """The files of a folder, to be read alone.

    Args:
        folder: whose files they are.
        seconds: before each answer to a read.
    """

    use_ns = True

    def __init__(self, folder: Path, seconds: float) -> None:
        self._folder, self._seconds = folder, seconds

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        """Tell size, mode and times (FUSE)."""
        try:
            found = self._real(path).lstat()
        except FileNotFoundError:
            raise mfusepy.FuseOSError(errno.ENOENT) from None
        plain = {name: getattr(found, name) for name in ("st_mode", "st_nlink", "st_size", "st_uid", "st_gid")}
        return {**plain, "st_mtime": found.st_mtime_ns}

    def readdir(self, path: str, fh: int) -> list[str]:
        """Name a folder's entries (FUSE)."""
        return [".", "..", *os.listdir(self._real(path))]

    def open(self, path: str, flags: int) -> int:
        """Open a file (FUSE)."""
        return os.open(self._real(path), os.O_RDONLY)

    def release(self, path: str, fh: int) -> int:
        """Close it (FUSE)."""
        os.close(fh)
        return 0

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        """Read from a file, after a while (FUSE)."""
        time.sleep(self._seconds)
        return os.pread(fh, size, offset)

    def _real(self, path: str) -> Path:
        return self._folder / path.removeprefix("/")


def main() -> None:
    """Mount it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("mount", type=Path)
    parser.add_argument("--milliseconds", type=float, default=2.0, help="before each answer to a read")
    arguments = parser.parse_args()
    files = SlowFiles(arguments.folder.resolve(), arguments.milliseconds / 1000)
    try:
        mfusepy.FUSE(files, str(arguments.mount), foreground=True, nothreads=False, ro=True, max_threads=THREADS)
    except RuntimeError:  # a signal, or what libfuse has told
        sys.exit(1)


if __name__ == "__main__":
    main()
