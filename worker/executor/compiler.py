"""What Triton needs of the machine to start its kernels: a C compiler, and Python's headers."""

import os
import shutil
import sysconfig
from pathlib import Path


def missing() -> str | None:
    """Return what of it is not there, and what to do; None: nothing is missing."""
    named = os.environ.get("CC")  # Triton takes it, else the first of these
    if named and not shutil.which(named):
        return f"CC={named} is no program: name a C compiler, or unset it"
    if not named and not any(map(shutil.which, ("gcc", "clang"))):
        return "Triton finds no C compiler: install gcc (Debian: gcc libc6-dev), or name one in CC"
    header = Path(sysconfig.get_paths()["include"], "Python.h")
    if not header.is_file():
        return f"Triton finds no {header}: install Python's headers (Debian: python3-dev, Fedora: python3-devel)"
    return None
