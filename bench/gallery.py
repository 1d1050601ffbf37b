"""The README's contact sheet: fixed prompts, none of which was trained on, drawn by the bundled model on the CPU.

    python -m bench.gallery [DIR]

Writes `images/gallery.png` and, with the prompts beside it, `gallery.md` into DIR (default: `docs`).
"""

import argparse
from pathlib import Path

from bench.quality.adherence import STEPS, Prompt, contact_sheet, draw_with_model, sample_prompts
from bench.quality.reading import read

COLUMNS, COUNT = 8, 24
SIZE = 128
SEED = 19  # the first with at least four of each kind, all shapes, relations and numbers


def gallery_prompts() -> list[Prompt]:
    """Return the 24 prompts, English and Chinese in turns; `make test` sends the same through the whole service."""
    return sample_prompts(COUNT, SEED)


def main() -> None:
    """Draw the gallery."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("docs"), metavar="DIR", help="default: docs")
    folder: Path = parser.parse_args().folder
    prompts = gallery_prompts()
    pictures = draw_with_model("tiny", prompts, SIZE, SIZE)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    sheet = contact_sheet(pictures, prompts, [read(picture) for picture in pictures], COLUMNS)
    sheet.save(folder / "images" / "gallery.png")
    (folder / "gallery.md").write_text(markdown(prompts), encoding="utf-8")


def markdown(prompts: list[Prompt]) -> str:
    """Return the page that shows the sheet and lists its prompts, row by row."""
    lines = [
        "# What the bundled model draws",
        "",
        "![the pictures, framed in green where the reader of `bench.quality.adherence` finds all that was asked for]"
        "(images/gallery.png)",
        "",
        f"Made by `make gallery`: {COUNT} prompts that were kept out of training, as they were drawn at random, "
        f"{SIZE}×{SIZE}, {STEPS} steps, on the CPU; in this order, row by row:",
        "",
    ]
    return "\n".join([*lines, *(f"{index}. {prompt.text}" for index, prompt in enumerate(prompts, 1))]) + "\n"


if __name__ == "__main__":
    main()
