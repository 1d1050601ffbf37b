"""Where the GPU's time goes in one picture: kernels by kind, and the gaps between them.

    python -m bench.profile [--checkpoint DIR] [--size N] [--out FILE]

For each quantization, pictures after three idle seconds and pictures under load; each figure is the median of five. The
profiler itself costs a few per cent of the whole, which `bench.pipeline` measures without it.
"""

import argparse
import itertools
import json
import re
import statistics
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from bench.pipeline import IDLE_SECONDS, LOAD_SECONDS, apart, draw, load
from bench.setting import describe
from pipeline.random_checkpoint import write_random_checkpoint

PICTURES = 5
# The first that is found in a kernel's name; `_name` are our own.
KINDS = {
    "attention": r"fmha|sdpa|flash",
    "convolutions": r"conv|fprop|nchw|nhwc",
    "matrix products": r"nvjet|gemm|cutlass|cublas|splitK",
    "gates and norms": r"^_gate_norm",
    "SwiGLU": r"^_swiglu",
    "norm of heads and rotation": r"^_rotate_qk",
    "quantisation of attention": r"^_quantize",
    "VAE's norms and sums": r"^_(sums|factors|affine|add)",
    "copies": r"^Mem(cpy|set)",
}


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--checkpoint", type=Path, help="default: a random one of full size")
    parser.add_argument("--size", type=int, default=1024, help="side of the picture, pixels")
    parser.add_argument("--out", type=Path, default=Path("bench/results/profile.json"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = arguments.checkpoint
        if checkpoint is None:
            checkpoint = Path(scratch) / "turbo"
            write_random_checkpoint(checkpoint, size="turbo", device="cuda")
        result = describe("bench.profile", "torch", "triton", device=torch.cuda.get_device_name())
        for quantization in ("none", "fp8"):
            result[quantization] = apart(partial(measure, checkpoint, quantization, arguments.size))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def measure(checkpoint: Path, quantization: str, size: int) -> dict[str, Any]:
    """Load the checkpoint, draw and return the figures."""
    pipeline = load(checkpoint, "cuda", quantization)
    figures = {}
    for state, pause in (("after 3 idle seconds", IDLE_SECONDS), ("under load", 0.0)):
        warm = time.monotonic() + LOAD_SECONDS
        while time.monotonic() < warm:
            draw(pipeline, size)
        runs = []
        for _ in range(PICTURES):
            time.sleep(pause)
            with profile(activities=[ProfilerActivity.CUDA]) as profiler:
                draw(pipeline, size)
            runs.append(kinds(profiler))
        names = sorted({name for run in runs for name in run}, key=lambda name: -runs[0].get(name, 0.0))
        figures[state] = {name: statistics.median(run.get(name, 0.0) for run in runs) for name in names}
    return figures


def kinds(profiler: profile) -> dict[str, float]:
    """Milliseconds of each kind of kernel, of the gaps between kernels, and from the first to the last."""
    spans = sorted(
        (event.time_range.start, event.time_range.end, event.name)
        for event in profiler.events() or ()  # type: ignore[no-untyped-call]
        if event.device_type.name == "CUDA"
    )
    found: Counter[str] = Counter()
    for start, end, name in spans:
        kind = next((kind for kind, pattern in KINDS.items() if re.search(pattern, name, re.IGNORECASE)), "others")
        found[kind] += end - start
    found["gaps"] = sum(max(0.0, after[0] - before[1]) for before, after in itertools.pairwise(spans))
    found["all"] = spans[-1][1] - spans[0][0]
    return {**{name: microseconds / 1000 for name, microseconds in found.items()}, "kernels": float(len(spans))}


if __name__ == "__main__":
    main()
