"""What Triton keeps of compiled kernels, checked as it is read: a broken file counts as missing, and is made anew.

Triton itself looks at names alone. So a file that a full disk or a power cut left empty, or a network half read, fails
every start from then on. Named to Triton by `kernel_cache`; imported by it alone.
"""

import hashlib
import json
import logging
import os
import secrets
from pathlib import Path

from triton.runtime.cache import FileCacheManager

log = logging.getLogger(__name__)

DIGEST, GROUP = ".sha256", ".group"  # behind the name of the file that they belong to


class KernelFiles(FileCacheManager):  # type: ignore[misc]
    """The files of one kernel, each with its digest beside it, in a folder named by Triton's key."""

    def __init__(self, key: str, override: bool = False, dump: bool = False) -> None:
        super().__init__(key, override, dump)
        self._by_hand = override  # files that a developer put there

    def has_file(self, filename: str) -> bool:
        """Tell whether the file is there, and whole."""
        if self._by_hand:
            return bool(super().has_file(filename))
        file, digest = Path(self._make_path(filename)), Path(self._make_path(filename + DIGEST))
        try:
            if _digest(file.read_bytes()) == digest.read_text():
                return True
        except FileNotFoundError:
            return False
        except (OSError, ValueError) as error:
            log.warning("%s can't be read, and is made anew: %s", file, error)
            return False
        log.warning("%s is broken, and is made anew", file)
        return False

    def put(self, data: object, filename: str, binary: bool = True) -> str:  # noqa: ARG002 - Triton's
        """Write a file and return its path; who reads meanwhile finds the one before, or none."""
        content = data if isinstance(data, bytes) else str(data).encode()
        for name, written in ((filename, content), (filename + DIGEST, _digest(content).encode())):
            draft = self._make_path(f"{secrets.token_hex(8)}.tmp")
            Path(draft).write_bytes(written)
            os.replace(draft, self._make_path(name))
        return str(self._make_path(filename))

    def get_group(self, filename: str) -> dict[str, str] | None:
        """Return the paths of all files of a kernel by their names; None: not all of them are there and whole."""
        if not self.has_file(filename + GROUP):
            return None
        names = json.loads(Path(self._make_path(filename + GROUP)).read_bytes())
        return {name: self._make_path(name) for name in names} if all(map(self.has_file, names)) else None

    def put_group(self, filename: str, group: dict[str, str]) -> str:
        """Write which files a kernel has."""
        return self.put(json.dumps(sorted(group)), filename + GROUP)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
