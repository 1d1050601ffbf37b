"""Figures that `bench` has recorded, each with the file, device and command that it comes from."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[2] / "bench" / "results"  # beside this package where it is installed, too


@dataclass(frozen=True)
class Source:
    """Where a figure comes from."""

    file: str  # below bench/results
    device: str
    command: str

    def __str__(self) -> str:
        return f"bench/results/{self.file}: {self.device}, {self.command}"


@dataclass(frozen=True)
class Measured:
    """A recorded figure."""

    value: float
    source: Source


def measured(file: str, *keys: str) -> Measured:
    """Return the figure that a file has under these keys, one in the other."""
    found = whole = read(file)
    for key in keys:
        found = found[key]
    return Measured(float(found), Source(file, whole["device"], whole["command"]))  # type: ignore[arg-type]


@cache
def read(file: str) -> dict[str, Any]:
    """Return what a file has."""
    content: dict[str, Any] = json.loads((RESULTS / file).read_text())
    return content
