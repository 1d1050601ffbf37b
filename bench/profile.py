"""Where the GPU's time goes in the forwards of a picture: kernels by kind, and the gaps between them.

    python -m bench.profile [--checkpoint DIR] [--size N] [--graph-tokens N] [--out FILE]

For each quantization and a caption of 64 tokens: 8 forwards after three idle seconds, and forwards under load (two
seconds of it, unprofiled, then two pictures in one profile); medians of five. Text encoder and VAE are left out: the
features of a prompt that comes again are kept, and latents are asked for.
"""

import argparse
import itertools
import json
import re
import statistics
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from bench.pipeline import IDLE_SECONDS, LOAD_SECONDS, PROMPT, STEPS, apart, load
from bench.setting import describe, full_size, require_gpu
from pipeline import Drawing, ZImagePipeline, memory_sizes

WINDOWS = 5
PROMPT_OF_64_TOKENS = f"{PROMPT} 0000"
# The first that is found in a kernel's name; `_name` are our own.
KINDS = {
    "attention": r"fmha|sdpa|flash",
    "matrix products": r"nvjet|gemm|cutlass|cublas|splitK",
    "gates and norms": r"^_gate_norm",
    "SwiGLU": r"^_swiglu",
    "norm of heads and rotation": r"^_rotate_qk",
    "quantisation of attention": r"^_quantize",
}


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--checkpoint", type=Path, help="default: a random one of full size")
    parser.add_argument("--size", type=int, default=1024, help="side of the picture, pixels")
    parser.add_argument("--graph-tokens", type=int, help="replay forwards of so many tokens from a CUDA graph")
    parser.add_argument("--out", type=Path, default=Path("bench/results/profile.json"))
    arguments = parser.parse_args()
    require_gpu()
    result = describe("bench.profile", "torch", "triton", device=torch.cuda.get_device_name())
    with full_size(arguments.checkpoint, "cuda") as checkpoint:
        for quantization in ("none", "fp8"):
            run = partial(measure, checkpoint, quantization, arguments.size, arguments.graph_tokens)
            result[quantization] = apart(run)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def measure(checkpoint: Path, quantization: str, size: int, graph_tokens: int | None) -> dict[str, Any]:
    """Load the checkpoint, draw and return the figures of 8 forwards, in milliseconds."""
    if graph_tokens is not None:
        memory_sizes.GRAPH_TOKENS = graph_tokens
    pipeline = load(checkpoint, "cuda", quantization)
    peak = max(forwards(pipeline, size)[1] for _ in range(3)) / 2**20
    idle = window(pipeline, size, idle=IDLE_SECONDS, load=0.0, pictures=1)
    keep_busy(pipeline, size, LOAD_SECONDS)
    loaded = window(pipeline, size, idle=0.0, load=2.0, pictures=2)
    return {"peak_mib": peak, "after 3 idle seconds": idle, "under load": loaded}


def window(pipeline: ZImagePipeline, size: int, *, idle: float, load: float, pictures: int) -> dict[str, float]:
    """The median of profiles of so many pictures, each after so many seconds of idling or load; without one first."""
    unprofiled, profiles = [], []
    for _ in range(WINDOWS):
        time.sleep(idle)
        unprofiled.append(forwards(pipeline, size)[0] * 1000)
    for _ in range(WINDOWS):
        time.sleep(idle)
        keep_busy(pipeline, size, load)
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            for _ in range(pictures):
                forwards(pipeline, size)
        profiles.append(profiler)
    runs = [by_kind(profiler, pictures) for profiler in profiles]
    names = sorted({name for run in runs for name in run}, key=lambda name: -runs[0].get(name, 0.0))
    return {
        "without the profiler": statistics.median(unprofiled),
        **{name: statistics.median(run.get(name, 0.0) for run in runs) for name in names},
    }


def keep_busy(pipeline: ZImagePipeline, size: int, seconds: float) -> None:
    """Draw for so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        forwards(pipeline, size)


def forwards(pipeline: ZImagePipeline, size: int) -> tuple[float, int]:
    """The forwards of one picture; return their seconds and the peak memory in bytes."""
    drawn = pipeline.generate(
        Drawing(PROMPT_OF_64_TOKENS, height=size, width=size, num_inference_steps=STEPS, output_type="latent")
    )
    return drawn.timings["denoise"], drawn.peak_vram_bytes


def by_kind(profiler: profile, pictures: int) -> dict[str, float]:
    """Milliseconds a picture of each kind of kernel, of the gaps between kernels, and from the first to the last."""
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
    milliseconds = {name: microseconds / 1000 / pictures for name, microseconds in found.items()}
    return {**milliseconds, "kernels": len(spans) / pictures}


if __name__ == "__main__":
    main()
