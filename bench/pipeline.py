"""Time and memory of the pipeline, stage by stage; by default at full size with random weights.

    python -m bench.pipeline [--checkpoint DIR] [--device cuda|cpu] [--quantizations none fp8] [--sizes N …]
                             [--repeats N] [--no-diffusers] [--out FILE]

Random weights measure speed and memory exactly: neither depends on their values. Without `--checkpoint` a random one of
full size is written to a temporary directory first (about 20 GB). Weights are bfloat16 on a GPU and float32 on a CPU,
as in the service. Each figure is the median of the repeats, after a warm-up and several seconds of load, so that the
chip's power cap is in it; `cool_…` is the median of five pictures, three idle seconds before each. On a GPU there are
also: jobs of four images, what other sizes cost the first time, and the ceiling of the first size: the matrix products
and the attention of its eight forwards alone. fp8 is measured with PyTorch held to 15 GiB, what a card of 16 GB leaves
beside CUDA's own; a peak is what tensors took, "reserved" what PyTorch held for them. Each quantization has a process
and empty compile caches of its own.

Without `--no-diffusers` a GPU measures diffusers too, its blocks compiled: in one process with ours, all drawing in
turns under the same load, from the prompt to uint8 on the host.
"""

import argparse
import gc
import importlib.util
import itertools
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.setting import describe, full_size
from pipeline import Drawing, ZImagePipeline
from pipeline.formats.number_format import QuantizationError
from pipeline.formats.registry import FORMATS, find

STEPS = 8
LOAD_SECONDS = 10.0
IDLE_SECONDS = 3.0
COOL_REPEATS = 5
SMALL_CARD_BYTES = 15 * 2**30
BATCH = 4
BATCH_REPEATS = 5
NEW_SIZES = (  # width, height: those that Z-Image is used with, and some that nobody asks for
    *((1152, 896), (1152, 864), (1248, 832), (1280, 720), (1344, 576)),
    *((896, 1152), (864, 1152), (832, 1248), (720, 1280), (576, 1344)),
    *((768, 768), (1280, 1280), (1536, 1536)),
    *((1040, 1072), (1008, 560), (272, 2032)),
)
numbers = itertools.count()
PROMPT = "A red fox in deep snow at dawn, low sun."  # with a number behind it 64 tokens of the random checkpoint's


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--checkpoint", type=Path, help="default: a random one of full size")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument(
        "--quantizations", choices=("none", *FORMATS), nargs="+", help="default: both on a GPU, none on a CPU"
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 512], help="sides of square pictures, pixels")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--no-diffusers", dest="diffusers", action="store_false", help="measure ours alone")
    parser.add_argument("--out", type=Path, default=Path("bench/results/pipeline.json"))
    arguments = parser.parse_args()
    on_gpu = arguments.device == "cuda"
    if on_gpu and not torch.cuda.is_available():
        parser.error("there is no CUDA device: --device cpu measures the CPU")
    quantizations = arguments.quantizations or ["none", *(FORMATS if on_gpu else ())]
    for quantization in quantizations:
        try:
            if number_format := find(quantization):
                number_format.check(torch.device(arguments.device), torch.bfloat16)
        except QuantizationError as error:
            parser.error(str(error))
    if on_gpu and arguments.diffusers and importlib.util.find_spec("diffusers") is None:
        parser.error("diffusers is not installed: --no-diffusers measures ours alone")
    with full_size(arguments.checkpoint, arguments.device) as checkpoint:
        device = torch.cuda.get_device_name() if on_gpu else None
        packages = ("torch", "transformers", *(["triton"] if on_gpu else []))
        result = describe("bench.pipeline", *packages, device=device)
        parts: dict[str, Callable[[], dict[str, Any]]] = {
            quantization: partial(
                measure, checkpoint, arguments.device, quantization, arguments.sizes, arguments.repeats
            )
            for quantization in quantizations
        }
        if on_gpu and arguments.diffusers:
            parts["in turns with diffusers"] = partial(
                measure_in_turns, checkpoint, quantizations, arguments.sizes, arguments.repeats
            )
        for name, run in parts.items():
            result[name] = apart(run)
            print_figures(name, result[name])
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            arguments.out.write_text(json.dumps(result, indent=1) + "\n")
        print_summary(result, quantizations, [str(size) for size in arguments.sizes])


def apart(run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Run in a process of its own, with nothing compiled yet."""
    with (
        tempfile.TemporaryDirectory() as cache,
        ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), compile_into, (cache,)) as process,
    ):
        return process.submit(run).result()


def compile_into(cache: str) -> None:
    """Have kernels compiled into a directory."""
    os.environ.update(TRITON_CACHE_DIR=f"{cache}/triton", TORCHINDUCTOR_CACHE_DIR=f"{cache}/inductor")


def measure(checkpoint: Path, device: str, quantization: str, sizes: Sequence[int], repeats: int) -> dict[str, Any]:
    """Load the checkpoint and draw; return the figures."""
    on_gpu = device == "cuda"
    if on_gpu:
        total = torch.cuda.get_device_properties(0).total_memory
        limit = SMALL_CARD_BYTES / total if find(quantization) else 1.0
        torch.cuda.set_per_process_memory_fraction(limit)
    start = time.monotonic()
    pipeline = load(checkpoint, device, quantization)
    if on_gpu:
        torch.cuda.synchronize()
    figures: dict[str, Any] = {"load_seconds": time.monotonic() - start}
    if on_gpu:
        if find(quantization):
            figures["held_to_mib"] = SMALL_CARD_BYTES / 2**20
        figures["load_peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
    figures["prompt_tokens"] = pipeline.text_encoder.encode(next_prompt()).tokens
    figures["sizes"] = {f"{size}": measure_size(partial(draw, pipeline, size), repeats) for size in sizes}
    if on_gpu:
        figures[f"images_per_second_of_{BATCH}"] = {f"{size}": throughput(pipeline, size) for size in sizes}
        figures["other_sizes"] = {f"{w}x{h}": measure_new(pipeline, w, h) for w, h in NEW_SIZES}
        figures["reserved_mib"] = torch.cuda.max_memory_reserved() / 2**20
        del pipeline
        free()
        figures["sizes"][f"{sizes[0]}, ceiling"] = measure_ceiling(sizes[0], quantization, repeats)
    return figures


def load(checkpoint: Path, device: str, quantization: str) -> ZImagePipeline:
    """Load as the service does."""
    return ZImagePipeline.from_pretrained(
        checkpoint,
        device=device,
        dtype=torch.bfloat16 if device == "cuda" else torch.float32,
        quantization=quantization,
    )


def draw(pipeline: ZImagePipeline, size: int, num_images: int = 1) -> tuple[dict[str, float], int]:
    """Draw one prompt; return the seconds of its stages and the peak memory in bytes."""
    asked = Drawing(next_prompt(), height=size, width=size, num_inference_steps=STEPS, num_images=num_images)
    drawn = pipeline.generate(asked)
    return drawn.timings, drawn.peak_vram_bytes


def throughput(pipeline: ZImagePipeline, size: int) -> float:
    """Images per second of jobs of several, on a card that is hot from the measurement before."""
    seconds = []
    for _ in range(BATCH_REPEATS):
        start = time.monotonic()
        draw(pipeline, size, BATCH)
        seconds.append(time.monotonic() - start)
    return BATCH / statistics.median(seconds)


def measure_new(pipeline: ZImagePipeline, width: int, height: int) -> dict[str, float]:
    """By how much the first picture of a size takes longer than the second, and the second's peak memory."""
    seconds = []
    for _ in range(2):
        start = time.monotonic()
        drawn = pipeline.generate(Drawing(next_prompt(), height=height, width=width, num_inference_steps=1))
        seconds.append(time.monotonic() - start)
    return {"first_time_extra_ms": (seconds[0] - seconds[1]) * 1000, "peak_mib": drawn.peak_vram_bytes / 2**20}


def measure_ceiling(size: int, quantization: str, repeats: int) -> dict[str, float]:
    """Matrix products and attention alone, of a picture with a caption of 64 tokens."""
    from bench.ceiling import Ceiling  # it needs Triton

    ceiling = Ceiling((size // 16) ** 2 + 64, find(quantization))

    def forwards() -> tuple[dict[str, float], int]:
        ceiling(STEPS)
        return {}, 0

    return measure_size(forwards, repeats)


def next_prompt() -> str:
    """A prompt that was not drawn before, since features are kept for those that come again; all are of one length."""
    return f"{PROMPT} {next(numbers):04}"


def measure_in_turns(
    checkpoint: Path, quantizations: Sequence[str], sizes: Sequence[int], repeats: int
) -> dict[str, Any]:
    """Draw with diffusers and with ours, one after the other again and again; return the figures."""
    import diffusers

    diffusers.utils.logging.disable_progress_bar()
    pipeline: Any = diffusers.ZImagePipeline
    pipeline = pipeline.from_pretrained(checkpoint, torch_dtype=torch.bfloat16).to("cuda")
    pipeline.set_progress_bar_config(disable=True)
    pipeline.transformer.compile_repeated_blocks(fullgraph=True, dynamic=False)

    def draw_with_diffusers(size: int) -> None:
        images = pipeline(
            next_prompt(),
            height=size,
            width=size,
            num_inference_steps=STEPS,
            guidance_scale=0.0,
            output_type="pt",
        ).images
        (images * 255).round().to(torch.uint8).cpu()

    peaks = {}
    for size in sizes:
        draw_with_diffusers(size)
        torch.cuda.reset_peak_memory_stats()
        draw_with_diffusers(size)
        peaks[size] = torch.cuda.max_memory_allocated() / 2**20
    drawers: dict[str, Callable[[int], object]] = {"diffusers": draw_with_diffusers}
    for quantization in quantizations:
        drawers[quantization] = partial(draw, load(checkpoint, "cuda", quantization))

    def turn(size: int, order: Sequence[str]) -> dict[str, float]:
        seconds = {}
        for name in order:
            start = time.monotonic()
            drawers[name](size)
            seconds[name] = time.monotonic() - start
        return seconds

    measured: dict[str, dict[str, float]] = {}
    names = list(drawers)
    for size in sizes:
        warm = time.monotonic() + LOAD_SECONDS
        while time.monotonic() < warm:
            turn(size, names)
        turns = [turn(size, names[:: 1 if i % 2 else -1]) for i in range(repeats)]
        medians = {name: statistics.median(seconds[name] for seconds in turns) for name in names}
        measured[str(size)] = {
            **{f"{name}_ms": median * 1000 for name, median in medians.items()},
            **{f"diffusers_by_{name}": medians["diffusers"] / medians[name] for name in names[1:]},
            "diffusers_peak_mib": peaks[size],
        }
    return {"diffusers": diffusers.__version__, "sizes": measured}


def measure_size(draw: Callable[[], tuple[dict[str, float], int]], repeats: int) -> dict[str, float]:
    """Return medians in milliseconds, and peak memory in MiB.

    Args:
        draw: draws one picture; returns the seconds of its stages and the peak memory in bytes.
        repeats: pictures that are timed.
    """

    def timed() -> tuple[dict[str, float], int]:
        start = time.monotonic()
        timings, peak = draw()
        return {**timings, "total": time.monotonic() - start}, peak

    first, _ = timed()
    timed()
    cool = []
    for _ in range(COOL_REPEATS):
        time.sleep(IDLE_SECONDS)
        cool.append(timed()[0])
    warm = time.monotonic() + LOAD_SECONDS
    while time.monotonic() < warm:
        timed()
    runs = [timed() for _ in range(repeats)]
    return {
        **{f"{stage}_ms": statistics.median(run[stage] * 1000 for run, _ in runs) for stage in runs[0][0]},
        **{
            f"cool_{stage}_ms": statistics.median(run[stage] * 1000 for run in cool)
            for stage in ("denoise", "total")
            if stage in cool[0]
        },
        "first_total_ms": first["total"] * 1000,
        **({"peak_mib": peak / 2**20} if (peak := max(peak for _, peak in runs)) else {}),
    }


def free() -> None:
    """Give back what the last pipeline held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def print_figures(name: str, result: dict[str, Any]) -> None:
    """Print all figures for people, a line each."""
    for key, value in flat(result):
        print(f"{name:24}{key:44}{value:>12}", flush=True)


def flat(figures: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Names and rounded values of figures within figures."""
    for key, value in figures.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key} ")
        else:
            yield prefix + key, f"{value:.2f}" if isinstance(value, float) else str(value)


def print_summary(result: dict[str, Any], quantizations: Sequence[str], sizes: Sequence[str]) -> None:
    """Print what matters most as a table: a row for each figure, a column for each quantization and for diffusers."""
    turns = result.get("in turns with diffusers", {"sizes": {}})["sizes"]
    print(f"{'':44}" + "".join(f"{name:>12}" for name in (*quantizations, "diffusers")))

    def row(title: str, values: Sequence[float | None], unit: str) -> None:
        print(f"{f'{title}, {unit}':44}" + "".join(f"{'-' if x is None else f'{x:.2f}':>12}" for x in values))

    for size in sizes:
        mine = [result[name]["sizes"][size] for name in quantizations]
        other = turns.get(size, {})
        for title, key in (
            ("8 forwards after 3 idle s", "cool_denoise_ms"),
            ("8 forwards under load", "denoise_ms"),
            ("text", "text_encode_ms"),
            ("VAE", "decode_ms"),
            ("prompt to uint8 on the host", "total_ms"),
        ):
            row(f"{size}²: {title}", [figures[key] for figures in mine], "ms")
        if other:
            in_turns = [other[f"{name}_ms"] for name in (*quantizations, "diffusers")]
            row(f"{size}²: the same, in turns", in_turns, "ms")
            row(f"{size}²: diffusers takes, times", [other[f"diffusers_by_{name}"] for name in quantizations], "×")
        row(f"{size}²: peak", [*(figures.get("peak_mib") for figures in mine), other.get("diffusers_peak_mib")], "MiB")
    row("weights to the device", [result[name]["load_seconds"] for name in quantizations], "s")


if __name__ == "__main__":
    main()
