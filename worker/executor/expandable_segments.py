"""Whether a GPU's memory can grow in expandable segments, tried in a process of its own.

Without them pictures of many sizes leave holes in the memory, and on a card of 16 GB a large one then finds no room.
But some drivers refuse what they are made of: those of virtual GPUs and of Jetson boards at the first allocation, as
WSL2's, or later. A process that has met that could not go on.

    python -m worker.executor.expandable_segments 0      # ends with 3 where the GPU cuda:0 refuses them, and says how
"""

import logging
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

log = logging.getLogger(__name__)

CHOICES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")  # the second is the older name
EXPANDABLE = "expandable_segments:True"
TRIAL_SECONDS = 60.0
REFUSED = 3  # exit code
SIZES = (1 << 10, 1 << 26)  # bytes: small and large ones lie in segments of different kinds


@contextmanager
def expandable_segments(device: torch.device) -> Iterator[None]:
    """Try them on a GPU during the block, and have torch use them behind it if they work.

    Nothing is tried or chosen where the environment chooses, or on a CPU.

    Args:
        device: on which next to nothing is allocated before the block's end: that stays as it is.
    """
    if device.type != "cuda" or any(name in os.environ for name in CHOICES):
        yield
        return
    if "microsoft" in platform.release().lower():
        _tell("WSL2 refuses them once memory gets short")
        yield
        return
    trial = subprocess.Popen(  # noqa: S603 - this program
        [sys.executable, "-m", __name__, str(device.index or 0)],
        env={**os.environ, CHOICES[0]: EXPANDABLE},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )
    try:
        yield
        refused = _refusal(trial)
    finally:
        trial.kill()  # and not waited for: one that hangs in the driver can't be ended
    if refused:
        _tell(refused)
    else:
        # The environment is read once, with the first look at a GPU.
        torch._C._accelerator_setAllocatorSettings(EXPANDABLE)


def _refusal(trial: subprocess.Popen[str]) -> str | None:
    """Wait for the trial; return why expandable segments can't be used, or None."""
    try:
        told, _ = trial.communicate(timeout=TRIAL_SECONDS)
    except subprocess.TimeoutExpired:
        return f"no answer within {TRIAL_SECONDS:.0f} s"
    if trial.returncode == 0:
        return None
    last = (told.strip().splitlines() or [""])[-1]
    return last if trial.returncode == REFUSED else f"the trial ended with {trial.returncode}: {last}"


def _tell(refused: str) -> None:
    log.warning(
        "GPU memory can't grow in expandable segments here (%s): it is kept in fixed ones, so that large pictures may "
        "find less room; PYTORCH_ALLOC_CONF chooses without a trial",
        refused,
    )


def _try(device: str) -> None:
    try:
        torch.cuda.synchronize(device)
    except RuntimeError:
        return  # a GPU that is full, taken or broken: this is no matter of segments, and the worker tells it
    try:
        for size in SIZES:
            torch.empty(size, dtype=torch.uint8, device=device).cpu()
    except torch.OutOfMemoryError:
        return  # as it is told where they work
    except RuntimeError as error:
        print(str(error).splitlines()[0])
        sys.exit(REFUSED)


if __name__ == "__main__":
    _try(f"cuda:{sys.argv[1]}")
