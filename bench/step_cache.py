"""What steps without the middle layers save at full size, and what a step cache costs where it skips none.

    python -m bench.step_cache [--checkpoint DIR] [--size N] [--repeats N] [--quality FILE] [--out FILE]

Random weights measure speed exactly, but their steps change by nothing like a trained model's, so which ones skip is
forced by masks: the one that Cache-DiT advises for Turbo, and for each setting of `bench.quality.step_cache` the
pattern that it has most often on the bundled model; so neither the time of their decisions nor the memory of what these
compare is in their figures. "never skips" is a mask that skips none, "decides" compares each
step and skips none. Without `--checkpoint` a random one of full size is written to a temporary directory first.

All settings draw in turns in one process, after several seconds of load, in bfloat16 and in each number format; the
order changes. Figures are medians: `denoise_ms` by the GPU's clock, `total_ms` from the prompt to uint8 on the host;
"by_off" is the median of the quotients within the turns.
"""

import argparse
import json
import statistics
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.pipeline import LOAD_SECONDS, STEPS, apart, load, next_prompt, print_figures
from bench.setting import describe, full_size, require_gpu
from pipeline import Drawing, StepCache, ZImagePipeline
from pipeline.formats.registry import FORMATS

ALWAYS: Mapping[str, StepCache | None] = {
    "off": None,
    "never skips": StepCache(mask="1" * STEPS),
    # It would skip what has not changed at all.
    "decides": StepCache(warmup=1, threshold=1e-9),
    "mask 11101001": StepCache(mask="11101001"),
}


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--checkpoint", type=Path, help="default: a random one of full size")
    parser.add_argument("--size", type=int, default=1024, help="side of the picture, pixels")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument(
        "--quality",
        type=Path,
        default=Path("bench/results/step-cache-quality.json"),
        help="of bench.quality.step_cache; its settings are left out where there is none",
    )
    parser.add_argument("--out", type=Path, default=Path("bench/results/step-cache.json"))
    arguments = parser.parse_args()
    require_gpu()
    quality = json.loads(arguments.quality.read_text())["settings"] if arguments.quality.is_file() else {}
    settings = {**ALWAYS, **most_frequent(quality)}
    result = describe("bench.step_cache", "torch", "triton", device=torch.cuda.get_device_name())
    result["size"] = arguments.size
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with full_size(arguments.checkpoint, "cuda") as checkpoint:
        for quantization in ("none", *FORMATS):
            result[quantization] = apart(
                partial(measure, checkpoint, quantization, settings, arguments.size, arguments.repeats)
            )
            print_figures(quantization, result[quantization])
            arguments.out.write_text(json.dumps(result, indent=1) + "\n")


def most_frequent(quality: Mapping[str, Any]) -> dict[str, StepCache | None]:
    """Settings that force the pattern that each setting of the bundled model's table has most often."""
    return {
        name: replace(StepCache(**entry["step_cache"]), mask=next(iter(entry["patterns"])))
        for name, entry in quality.items()
        if entry["step_cache"]
    }


def measure(
    checkpoint: Path, quantization: str, settings: Mapping[str, StepCache | None], size: int, repeats: int
) -> dict[str, Any]:
    """Load the checkpoint and compare the settings."""
    return compare(load(checkpoint, "cuda", quantization), settings, size, repeats)


def compare(
    pipeline: ZImagePipeline, settings: Mapping[str, StepCache | None], size: int, repeats: int
) -> dict[str, Any]:
    """Draw square pictures in turns.

    Returns:
        By setting its figures, those that come to the same being drawn once, and `decision_ms`: what a step costs more
        in "decides" than in "never skips", what it keeps included.
    """
    caches = list(dict.fromkeys(_essence(cache) for cache in settings.values()))
    warm = time.monotonic() + LOAD_SECONDS
    while True:
        for cache in caches:
            draw(pipeline, size, cache)
        if time.monotonic() >= warm:
            break
    turns = []
    for turn in range(repeats):
        order = caches[:: 1 if turn % 2 else -1]
        turns.append({cache: draw(pipeline, size, cache) for cache in order})
    figures: dict[str, Any] = {"repeats": repeats, "settings": {}}
    for name, cache in settings.items():
        runs = [(turn[_essence(cache)], turn[None]) for turn in turns]
        figures["settings"][name] = {
            "steps_skipped": cache.mask.count("0") if cache and cache.mask else 0,
            **{f"{stage}_ms": statistics.median(run[stage] for run, _ in runs) for stage in ("denoise", "total")},
            **{
                f"{stage}_by_off": statistics.median(run[stage] / off[stage] for run, off in runs)
                for stage in ("denoise", "total")
            },
            "peak_mib": max(run["peak_mib"] for run, _ in runs),
        }
    decides, never = (_essence(settings[name]) for name in ("decides", "never skips"))
    more = statistics.median(turn[decides]["denoise"] - turn[never]["denoise"] for turn in turns)
    return {**figures, "decision_ms": more / (STEPS - 1)}


def _essence(cache: StepCache | None) -> StepCache | None:
    """What of the settings makes a difference where a mask decides."""
    if cache is None or cache.mask is None:
        return cache
    return StepCache(first=cache.first, last=cache.last, mask=cache.mask, taylor_order=cache.taylor_order)


def draw(pipeline: ZImagePipeline, size: int, cache: StepCache | None) -> dict[str, float]:
    """Draw one picture; return milliseconds and MiB."""
    start = time.monotonic()
    drawing = Drawing(next_prompt(), height=size, width=size, num_inference_steps=STEPS, step_cache=cache)
    drawn = pipeline.generate(drawing)
    total = time.monotonic() - start
    skipped = cache.mask.count("0") if cache and cache.mask else 0
    assert drawn.steps_skipped == [skipped]
    return {
        "denoise": drawn.timings["denoise"] * 1000,
        "total": total * 1000,
        "peak_mib": drawn.peak_vram_bytes / 2**20,
    }


if __name__ == "__main__":
    main()
