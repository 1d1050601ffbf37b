"""What a benchmark's figures were measured with: the beginning of each JSON under `bench/results/`."""

import os
import platform
import sys
from importlib.metadata import version
from typing import Any


def describe(benchmark: str, *packages: str, device: str | None = None) -> dict[str, Any]:
    """Return command, device and versions.

    Args:
        benchmark: its module, such as `bench.png`.
        packages: the distributions whose versions matter to it, beside Python's.
        device: None: the CPU.
    """
    quantization = os.environ.get("ZIMAGE_QUANTIZATION")
    return {
        "command": " ".join(
            [
                *([f"ZIMAGE_QUANTIZATION={quantization}"] if quantization else []),
                *("python", "-m", benchmark),
                *sys.argv[1:],
            ]
        ),
        "device": device or f"CPU, {os.cpu_count()} cores",
        "versions": {"python": platform.python_version(), **{package: version(package) for package in packages}},
    }
