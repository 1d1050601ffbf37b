"""What fp8 costs where the first of its products is not to be had: each of them, at full size.

    python -m bench.fp8_products [--checkpoint DIR] [--sizes N …] [--repeats N] [--out FILE]

A process for each product, one after the other, and one for bfloat16: pictures of 8 steps as `bench.pipeline` draws
them, after several seconds of load; medians. The others are taken away, so that the choice falls on it.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.pipeline import LOAD_SECONDS, apart, draw, load
from bench.setting import describe, full_size, require_gpu
from pipeline.formats.fp8 import FP8


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--checkpoint", type=Path, help="default: a random one of full size")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 512], help="sides of square pictures, pixels")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("bench/results/fp8-products.json"))
    arguments = parser.parse_args()
    require_gpu()
    result = describe("bench.fp8_products", "torch", "triton", device=torch.cuda.get_device_name())
    with full_size(arguments.checkpoint, "cuda") as checkpoint:
        for product in (*FP8.products, None):
            run = partial(measure, checkpoint, product, arguments.sizes, arguments.repeats)
            result[product or "bfloat16"] = figures = apart(run)
            print(product or "bfloat16", json.dumps(figures), flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


def measure(checkpoint: Path, product: str | None, sizes: Sequence[int], repeats: int) -> dict[str, Any]:
    """Draw by one product, None: in bfloat16; return medians in ms by size."""
    if product is not None:
        FP8.products = {product: FP8.products[product]}
    pipeline = load(checkpoint, "cuda", "none" if product is None else "fp8")
    figures: dict[str, Any] = {}
    for size in sizes:
        end = time.monotonic() + LOAD_SECONDS
        while time.monotonic() < end:
            draw(pipeline, size)
        drawn = [draw(pipeline, size) for _ in range(repeats)]
        stages = {stage: [timings[stage] * 1000 for timings, _ in drawn] for stage in drawn[0][0]}
        figures[f"{size}"] = {f"{stage}_ms": statistics.median(times) for stage, times in stages.items()}
        figures[f"{size}"]["peak_mib"] = max(peak for _, peak in drawn) / 2**20
    return figures


if __name__ == "__main__":
    main()
