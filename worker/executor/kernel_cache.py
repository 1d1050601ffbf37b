"""Compiled kernels outlive the process: a worker that starts again finds those of the last one."""

import logging
import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from network.file_systems import remote_type

log = logging.getLogger(__name__)


def keep_kernels(cache_dir: Path) -> None:
    """Have Triton, before it runs, keep what it compiles on a disk of this machine, unless the environment says where.

    That is in `cache_dir`; or, since Triton's files are not made to be shared over a network, in the temporary
    directory where that one is another machine's.
    """
    os.environ.setdefault("TRITON_CACHE_MANAGER", "worker.executor.kernel_files:KernelFiles")
    if os.environ.get("TRITON_CACHE_DIR"):
        return
    folder = cache_dir / "triton"
    if found := remote_type(folder):
        folder = _own_temporary_folder()
        log.info(
            "ZIMAGE_CACHE_DIR is on a network (%s): compiled kernels are kept in %s, or where TRITON_CACHE_DIR says",
            found,
            folder,
        )
    os.environ["TRITON_CACHE_DIR"] = str(folder)


def _own_temporary_folder() -> Path:
    """Return a folder that this user alone can write, the same at each start: what is in it is run."""
    folder = Path(tempfile.gettempdir(), f"zimage-kernels-{os.getuid()}")
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022:
        return folder
    return Path(tempfile.mkdtemp(prefix="zimage-kernels-"))
