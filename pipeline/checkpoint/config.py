"""A checkpoint's JSON files, and the error that tells what is wrong with a checkpoint."""

import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.checkpoint.impostors import impostor


class CheckpointError(ValueError):
    """A checkpoint that cannot be loaded: one line that names the file, the key and what was expected."""


class AwayError(CheckpointError):
    """The hub, or S3, does not give the checkpoint now; later it may."""


class NoRoomError(CheckpointError):
    """The checkpoint does not fit on this machine's disk."""


class Config:
    """The JSON object of one file; its complaints name the file and the key.

    Raises CheckpointError for a missing file, broken JSON, and a missing or mistyped field.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            values = json.loads(path.read_bytes())  # with a byte order mark too, and in UTF-16
        except FileNotFoundError:
            raise CheckpointError(f"{path}: {impostor(path) or 'missing file'}") from None
        except UnicodeDecodeError:
            raise CheckpointError(f"{path}: {impostor(path) or 'is not UTF-8: save it in that encoding'}") from None
        except (OSError, ValueError, RecursionError) as error:
            told = impostor(path) or f"not readable as JSON: {one_line(error)}"
            raise CheckpointError(f"{path}: {told}") from None
        if not isinstance(values, dict):
            raise CheckpointError(f"{path}: holds no JSON object")
        self.values: dict[str, Any] = values

    def __getitem__(self, key: str) -> Any:
        if key not in self.values:
            raise CheckpointError(f"{self.path}: missing field {key!r}")
        return self.values[key]

    def integer(self, key: str) -> int:
        """The whole number > 0 at `key`."""
        value: int = self._typed(key, "a whole number > 0", _is_count)
        return value

    def number(self, key: str) -> float:
        """The finite number at `key`."""
        return float(self._typed(key, "a finite number", _is_finite))

    def positive(self, key: str) -> float:
        """The finite number > 0 at `key`."""
        return float(self._typed(key, "a finite number > 0", lambda value: _is_finite(value) and value > 0))

    def integers(self, key: str) -> tuple[int, ...]:
        """The whole numbers > 0, one or more, at `key`."""

        def valid(value: Any) -> bool:
            return isinstance(value, list) and len(value) > 0 and all(map(_is_count, value))

        return tuple(self._typed(key, "a list of whole numbers > 0", valid))

    def section(self, key: str) -> "Config":
        """The object at `key`; its complaints name the same file."""
        section = copy.copy(self)
        section.values = self._typed(key, "an object", lambda value: isinstance(value, dict))
        return section

    def expect(self, key: str, *allowed: Any, default: Any = None) -> None:
        """Refuse the file unless `key`, or `default` where it is absent, holds one of `allowed`."""
        if self.values.get(key, default) not in allowed:
            found = f"is {_spelled(self.values[key])}" if key in self.values else "is missing"
            raise CheckpointError(f"{self.path}: {key} {found}, expected {' or '.join(map(_spelled, allowed))}")

    def _typed(self, key: str, expected: str, valid: Callable[[Any], bool]) -> Any:
        value = self[key]
        if isinstance(value, bool) or not valid(value):
            raise CheckpointError(f"{self.path}: {key} is {_spelled(value)}, expected {expected}")
        return value


def one_line(error: Exception) -> str:
    """The message of an error without its line breaks."""
    return " ".join(str(error).split())


def _spelled(value: Any) -> str:
    """A value as the file spells it."""
    return json.dumps(value, ensure_ascii=False)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_finite(value: Any) -> bool:
    # Python's JSON knows NaN and Infinity, and whole numbers beyond any float.
    return isinstance(value, int | float) and abs(value) <= sys.float_info.max
