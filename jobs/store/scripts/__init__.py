"""The Lua scripts: every change of a job's state is one of them, so that each is atomic.

`prelude.lua` holds what they share (key names, the clock, the move between states) and stands in front of each. Redis
knows a script by its flags in the first line, so that line is kept first. The scripts build key names from the record
they read, which Redis Cluster does not allow: the service needs a single primary.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

MICROSECONDS = 1_000_000  # of a second: the scripts' unit of time


@cache
def source(name: str) -> str:
    """Return the text of a script, prelude included."""
    folder = files(__name__)
    flags, body = (folder / f"{name}.lua").read_text().split("\n", 1)
    return "\n".join([flags, (folder / "prelude.lua").read_text(), body])


def pairs(flat: Sequence[Any]) -> Iterable[tuple[Any, Any]]:
    """Return the fields and values of a hash as scripts return it: one after the other."""
    return zip(flat[::2], flat[1::2], strict=True)
