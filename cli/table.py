"""Rows on the terminal whose last cell is a prompt, or another long text: a table that fits the window."""

import shutil
from collections.abc import Iterable, Sequence
from datetime import datetime

SHORT = 60  # characters of a prompt
NARROWEST = 10  # columns of the window for a prompt: ids are whole also where it is too narrow
GAP = "  "


def printable(prompt: str) -> str:
    """Return a prompt as one line that can't drive the terminal."""
    return "".join(character if character.isprintable() else " " for character in prompt)


def shortened(prompt: str) -> str:
    """Return the beginning of a prompt, for where no window cuts it."""
    return prompt if len(prompt) <= SHORT else f"{prompt[: SHORT - 1]}…"


def local_time(moment: datetime) -> str:
    """Return a time as the operator's clock shows it."""
    return moment.astimezone().strftime("%d %b %H:%M")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows; the last column is cut to what the others leave of the window."""
    from rich.text import Text

    table = [columns, *rows]
    widths = [max(map(len, cells)) for cells in zip(*(row[:-1] for row in table), strict=True)]
    left = shutil.get_terminal_size().columns - sum(width + len(GAP) for width in widths)
    for *others, last in table:
        prompt = Text(last)  # knows how wide each character is
        prompt.truncate(max(NARROWEST, left), overflow="ellipsis")
        cells = [cell.ljust(width) for cell, width in zip(others, widths, strict=True)]
        print(GAP.join([*cells, prompt.plain]))
