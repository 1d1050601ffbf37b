"""Compiled kernels outlive the process: a worker that starts again finds those of the last one."""

import os
from pathlib import Path


def keep_kernels(cache_dir: Path) -> None:
    """Have Triton, before it runs, keep what it compiles in `cache_dir`, unless the environment says where."""
    os.environ.setdefault("TRITON_CACHE_DIR", str(cache_dir / "triton"))
