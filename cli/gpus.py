"""The GPUs of this machine as `nvidia-smi` lists them: the driver's own word, without torch."""

import subprocess
from contextlib import suppress
from dataclasses import dataclass

GIB = 1024**3
_QUERY = ["nvidia-smi", "--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader,nounits"]


@dataclass(frozen=True)
class Gpu:
    """A GPU; what the driver does not tell is None."""

    name: str
    vram: int | None  # bytes
    capability: tuple[int, int] | None  # compute capability


def list_gpus() -> list[Gpu]:
    """Return the machine's GPUs; none where there is no driver, or it does not answer."""
    try:
        listed = subprocess.run(_QUERY, capture_output=True, text=True, timeout=10, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return []
    if listed.returncode:
        return []
    return [_gpu(line) for line in listed.stdout.splitlines() if line.count(",") == 2]


def _gpu(line: str) -> Gpu:
    name, mebibytes, capability = (part.strip() for part in line.split(","))
    vram = found = None
    with suppress(ValueError):  # "[N/A]": memory that it shares with the CPU
        vram = int(mebibytes) * 1024**2
    with suppress(ValueError):
        major, minor = map(int, capability.split("."))
        found = (major, minor)
    return Gpu(name, vram, found)
