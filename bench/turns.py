"""Two checkouts of this project on one GPU, drawing in turns: what a change costs or gains, and nothing else.

    python -m bench.turns OTHER [--checkpoint DIR] [--sizes N …] [--repeats N] [--out FILE]

Each checkout has a process of its own, started in its folder, which loads and draws as `bench.pipeline` there does.
Both hold their pipeline at the same time and draw a picture each in turns, the order changing, after several seconds of
load. Figures are medians; `change` is this checkout's by the other's. They load twice, one after the other: the quicker
load counts.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from bench.drawer import Drawer
from bench.setting import describe, full_size, require_gpu
from pipeline.formats.registry import FORMATS

LOAD_SECONDS = 10.0
DRAWN = """
import json, sys, time
from bench.pipeline import draw, load
start = time.monotonic()
pipeline = load(sys.argv[1], "cuda", sys.argv[2])
print(json.dumps(time.monotonic() - start), flush=True)
for line in sys.stdin:
    start = time.monotonic()
    timings, peak = draw(pipeline, int(line))
    figures = {f"{stage}_ms": seconds * 1000 for stage, seconds in timings.items()}
    figures |= {"total_ms": (time.monotonic() - start) * 1000, "peak_mib": peak / 2**20}
    print(json.dumps(figures), flush=True)
"""


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("other", type=Path, help="the folder of the other checkout")
    parser.add_argument("--checkpoint", type=Path, help="default: a random one of full size")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 512], help="sides of square pictures, pixels")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("bench/results/turns.json"))
    arguments = parser.parse_args()
    require_gpu()
    result = describe("bench.turns", "torch", "transformers", "triton", device=torch.cuda.get_device_name())
    folders = {"other": arguments.other, "this": Path.cwd()}
    with full_size(arguments.checkpoint, "cuda") as checkpoint:
        for quantization in ("none", *FORMATS):
            result[quantization] = compare(folders, checkpoint, quantization, arguments.sizes, arguments.repeats)
            arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def compare(
    folders: dict[str, Path], checkpoint: Path, quantization: str, sizes: list[int], repeats: int
) -> dict[str, Any]:
    """Load and draw with both; return the medians of each and the change."""

    def start(name: str) -> Drawer:
        return Drawer(DRAWN, str(checkpoint.absolute()), quantization, folder=folders[name])

    loads: dict[str, list[float]] = {name: [] for name in folders}
    for name in [*folders, *reversed(folders)]:
        with start(name) as drawer:
            loads[name].append(drawer.loaded)
    figures: dict[str, Any] = {"load_seconds": with_change({name: min(loads[name]) for name in folders})}
    with start("other") as other, start("this") as this:
        for size in sizes:
            figures[str(size)] = take_turns({"other": other, "this": this}, size, repeats)
    return figures


def take_turns(drawers: dict[str, Drawer], size: int, repeats: int) -> dict[str, dict[str, float]]:
    """Medians of so many pictures by each."""
    names = list(drawers)
    warm = time.monotonic() + LOAD_SECONDS
    while time.monotonic() < warm:
        for name in names:
            drawers[name].draw(size)
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for turn in range(repeats):
        for name in names[:: 1 if turn % 2 else -1]:
            runs[name].append(drawers[name].draw(size))
    return {
        figure: with_change({name: statistics.median(run[figure] for run in runs[name]) for name in names})
        for figure in runs[names[0]][0]
    }


def with_change(values: dict[str, float]) -> dict[str, float]:
    """Both values, and this one's by the other's."""
    return {**values, "change": values["this"] / values["other"]}


if __name__ == "__main__":
    main()
