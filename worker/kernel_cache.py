"""Compiled kernels outlive the process: a worker that starts again finds those of the last one."""

import os
from pathlib import Path


def keep_kernels(cache_dir: Path) -> None:
    """Have Triton and torch.compile keep what they compile in `cache_dir`, unless the environment says where.

    To be called before torch is imported.
    """
    os.environ.setdefault("TRITON_CACHE_DIR", str(cache_dir / "triton"))
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_dir / "inductor"))
