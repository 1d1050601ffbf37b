"""Time and memory of the pipeline, stage by stage; by default at full size with random weights.

    python -m bench.pipeline [--checkpoint DIR] [--device cuda|cpu] [--sizes N …] [--repeats N] [--out FILE]

Random weights measure speed and memory exactly: neither depends on their values. Without `--checkpoint` a random one of
full size is written to a temporary directory first (about 20 GB). Weights are bfloat16 on a GPU and float32 on a CPU,
as in the service. Each figure is the median of the repeats, after a warm-up and several seconds of load, so that the
chip's power cap is in it.
"""

import argparse
import itertools
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from pipeline import ZImagePipeline
from pipeline.random_checkpoint import write_random_checkpoint

STEPS = 8
LOAD_SECONDS = 10.0
numbers = itertools.count()
PROMPT = "Young Chinese woman in red Hanfu, intricate embroidery, holding a round folding fan with lady, trees, bird."


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--checkpoint", type=Path, help="default: a random one of full size")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 512], help="sides of square pictures, pixels")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("bench/results/pipeline.json"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = arguments.checkpoint
        if checkpoint is None:
            checkpoint = Path(scratch) / "turbo"
            write_random_checkpoint(checkpoint, size="turbo")
        result = measure(checkpoint, arguments.device, arguments.sizes, arguments.repeats)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print_table(result)


def measure(checkpoint: Path, device: str, sizes: Sequence[int], repeats: int) -> dict[str, Any]:
    """Load the checkpoint and draw; return the figures."""
    on_gpu = device == "cuda"
    start = time.monotonic()
    dtype = torch.bfloat16 if on_gpu else torch.float32
    pipeline = ZImagePipeline.from_pretrained(str(checkpoint), device=device, dtype=dtype)
    if on_gpu:
        torch.cuda.synchronize()
    load_seconds = time.monotonic() - start
    return {
        "command": "python -m " + " ".join(["bench.pipeline", *sys.argv[1:]]),
        "device": torch.cuda.get_device_name() if on_gpu else f"CPU, {os.cpu_count()} cores",
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "load_seconds": load_seconds,
        "sizes": {str(size): measure_size(pipeline, size, repeats) for size in sizes},
    }


def measure_size(pipeline: ZImagePipeline, size: int, repeats: int) -> dict[str, float]:
    """Return medians in milliseconds, and peak memory in MiB."""

    def draw() -> tuple[dict[str, float], int]:
        prompt = f"{PROMPT} {next(numbers)}"  # never the same: features are kept for prompts that come again
        start = time.monotonic()
        drawn = pipeline.generate(prompt, height=size, width=size, num_inference_steps=STEPS)
        return {**drawn.timings, "total": time.monotonic() - start}, drawn.peak_vram_bytes

    warm = time.monotonic() + LOAD_SECONDS
    while time.monotonic() < warm:
        draw()
    runs = [draw() for _ in range(repeats)]
    stages = {f"{stage}_ms": statistics.median(run[stage] * 1000 for run, _ in runs) for stage in runs[0][0]}
    return {**stages, "forward_ms": stages["denoise_ms"] / STEPS, "peak_mib": max(peak for _, peak in runs) / 2**20}


def print_table(result: dict[str, Any]) -> None:
    """Print the figures for people."""
    print(f"{result['device']}, torch {result['versions']['torch']}, load {result['load_seconds']:.1f} s")
    for size, figures in result["sizes"].items():
        print(f"{size}x{size}: " + ", ".join(f"{name} {value:.1f}" for name, value in figures.items()))


if __name__ == "__main__":
    main()
