"""Draws quality against time for each setting of the step cache: `python -m bench.quality.step_cache_chart`.

    python -m bench.quality.step_cache_chart [--quality FILE] [--times FILE] [--out PNG]

Quality is the likeness of all the bundled model's pictures to those without a cache (`bench.quality.step_cache`); the
time is that of the full size with the steps skipped that the setting skips most often (`bench.step_cache`).
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

from bench.quality.step_cache import NAMED
from pipeline.formats.registry import FORMATS

TITLES = {"none": "bfloat16", **{name: name for name in FORMATS}}


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--quality", type=Path, default=Path("bench/results/step-cache-quality.json"))
    parser.add_argument("--times", type=Path, default=Path("bench/results/step-cache.json"))
    parser.add_argument("--out", type=Path, default=Path("docs/images/step-cache.png"))
    arguments = parser.parse_args()
    for option, file in (("--quality", arguments.quality), ("--times", arguments.times)):
        if not file.is_file():
            sys.exit(f"{option}: there is no {file}; the benchmark that writes it was not run")
    plot(json.loads(arguments.quality.read_text()), json.loads(arguments.times.read_text()), arguments.out)


def plot(quality: Mapping[str, Any], times: Mapping[str, Any], path: Path) -> None:
    """Write a PNG with a panel for each number format."""
    mpl.use("Agg")
    formats = [name for name in TITLES if name in times]
    figure, panels = pyplot.subplots(
        1, len(formats), figsize=(5.5 * len(formats), 4.4), sharey=True, squeeze=False, layout="constrained"
    )
    for axes, name in zip(panels[0], formats, strict=True):
        _panel(axes, quality["settings"], times[name]["settings"])
        axes.set_title(f"{TITLES[name]}, {times['size']}×{times['size']}, {times['device']}", fontsize=10)
    panels[0][0].set_ylabel("PSNR to the picture without a cache, dB\n(median of all pictures)")
    figure.draw_without_rendering()  # lays it out
    for axes in panels[0]:
        _drop_overprints(axes)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _panel(axes: Axes, quality: Mapping[str, Any], times: Mapping[str, Any]) -> None:
    """A point for each setting; those that people name by their names, the others by the steps that they skip."""
    off = times["off"]["denoise_ms"]
    axes.axvline(off, color="0.6", linestyle=":")
    axes.annotate("off", (off, 0.02), xycoords=("data", "axes fraction"), ha="right", xytext=(-3, 0), **OFFSET)
    for name, entry in quality.items():
        if name not in times or entry.get("psnr_db_median") is None:
            continue
        named = name in NAMED
        point = (times[name]["denoise_ms"], entry["psnr_db_median"])
        axes.plot(*point, marker="o" if named else ".", color="C0" if named else "0.6", zorder=3 if named else 2)
        if named:
            axes.annotate(name, point, xytext=(0, 6), ha="center", fontsize=9, **OFFSET)
        else:
            skipped = f"{times[name]['steps_skipped']}"
            axes.annotate(skipped, point, xytext=(5, 4), color="0.5", fontsize=7, **OFFSET)
    axes.set_xlim(0.95 * min(entry["denoise_ms"] for entry in times.values()), 1.03 * off)
    axes.set_xlabel("denoising, ms, with the most frequent pattern\n(grey: other settings, by the steps that it skips)")
    axes.grid(alpha=0.3)


def _drop_overprints(axes: Axes) -> None:
    """Remove labels that lie over one that came before: of the settings, those that people name come first."""
    shown: list[Bbox] = []
    for label in list(axes.texts):
        box = label.get_window_extent()
        if any(box.overlaps(other) for other in shown):
            label.remove()
        else:
            shown.append(box)


OFFSET: dict[str, Any] = {"textcoords": "offset points"}

if __name__ == "__main__":
    main()
