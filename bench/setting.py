"""What a benchmark's figures were measured with: device, checkpoint, and the beginning of each JSON."""

import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

SETTINGS = ("ZIMAGE_QUANTIZATION", "ZIMAGE_VRAM_BUDGET", "ZIMAGE_RESIDENCY")  # that change what is measured


def describe(benchmark: str, *packages: str, device: str | None = None) -> dict[str, Any]:
    """Return command, device and versions.

    Args:
        benchmark: its module, such as `bench.png`.
        packages: the distributions whose versions matter to it, beside Python's.
        device: None: the CPU.
    """
    settings = [f"{name}={value}" for name in SETTINGS if (value := os.environ.get(name))]
    return {
        "command": " ".join([*settings, "python", "-m", benchmark, *sys.argv[1:]]),
        "device": device or f"CPU, {os.cpu_count()} cores",
        "versions": {"python": platform.python_version(), **{package: version(package) for package in packages}},
    }


def require_gpu() -> None:
    """End the command where there is no GPU to measure."""
    import torch

    if not torch.cuda.is_available():
        sys.exit("there is no CUDA device, and this measures one")


@contextmanager
def full_size(given: Path | None, device: str) -> Iterator[Path]:
    """Give the checkpoint that was given, or a random one of full size (20 GB) for as long as the context lasts."""
    if given is not None:
        if not (given / "model_index.json").is_file():
            sys.exit(f"--checkpoint: {given} has no model_index.json, so it is none in diffusers' layout")
        yield given
        return
    from pipeline.checkpoint.random import write_random_checkpoint

    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = Path(scratch) / "turbo"
        write_random_checkpoint(checkpoint, size="turbo", device=device)
        yield checkpoint
