"""What drawing costs within a budget of GPU memory, and whether it takes what its plan predicted; at full size.

    python -m bench.residency [--checkpoint DIR] [--device cuda|cpu] [--cases none:16GiB fp8:8GiB …] [--random N]
                              [--repeats N] [--size N] [--out FILE]

Each case is a quantization and a budget. It has a process of its own, in which PyTorch is held to the budget by
`set_per_process_memory_fraction`, with expandable segments, as in a worker. It draws in turns with a process that has
all weights resident and no limit, on the same GPU: pictures of a prompt that was drawn before, and of new ones. Figures
are medians after some seconds of load; `times_resident` and `new_prompt_extra_ms` compare the two. The first picture of
both is compared to the bit. Then N plans of random budgets draw pictures of several kinds, four at a time, for their
peaks alone. `peak_mib` is what tensors took at most, `predicted_mib` what the plan said before, `reserved_mib` what
PyTorch held for them. `load_ram_beyond_pinned_mib` is the most memory, other than pages of files, that loading took
beside what is to be pinned. The bandwidth is that of 1 GiB of pinned memory to the GPU, measured in the same run.
"""

import argparse
import hashlib
import json
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from bench.drawer import Drawer
from bench.pipeline import PROMPT, load, next_prompt
from bench.setting import describe, full_size
from pipeline import Drawing, ZImagePipeline
from pipeline.memory_plan import least_budget, parse_budget, plan
from pipeline.memory_sizes import Picture, Sizes

CASES = ("none:24GiB", "none:16GiB", "fp8:12GiB", "none:8GiB", "fp8:8GiB", "none:6GiB", "fp8:6GiB")
STEPS = 8
PROMPT_TOKENS = 64  # of the random checkpoint's, as `bench.pipeline` has them
LOAD_SECONDS = 3.0
AT_ONCE = 4  # processes of random budgets
MIB = 2**20


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--checkpoint", type=Path, help="default: a random one of full size")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--cases", nargs="*", default=CASES, metavar="QUANTIZATION:BUDGET")
    parser.add_argument("--random", type=int, default=20, help="plans of random budgets")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--size", type=int, default=1024, help="side of the pictures, pixels")
    parser.add_argument("--out", type=Path, default=Path("bench/results/residency.json"))
    arguments = parser.parse_args()
    on_gpu = arguments.device == "cuda"
    if on_gpu and not torch.cuda.is_available():
        parser.error("there is no CUDA device: --device cpu tries the benchmark itself")
    packages = ("torch", "transformers", *(["triton"] if on_gpu else []))
    device = torch.cuda.get_device_name() if on_gpu else None
    result = describe("bench.residency", *packages, device=device)
    if on_gpu:
        result["pinned_gb_per_second"] = bandwidth()

    def keep(section: str, name: str, figures: dict[str, Any]) -> None:
        result.setdefault(section, {})[name] = figures
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")
        print(name, json.dumps(figures), flush=True)

    with full_size(arguments.checkpoint, arguments.device) as checkpoint, tempfile.TemporaryDirectory() as cache:
        os.environ["TRITON_CACHE_DIR"] = f"{cache}/triton"  # kernels are compiled once for all processes
        os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"
        by_quantization: dict[str, list[str]] = {}
        for case in arguments.cases:
            quantization, _, budget = case.partition(":")
            by_quantization.setdefault(quantization, []).append(budget)
        for quantization, budgets in by_quantization.items():
            with start(checkpoint, arguments.device, quantization, None) as resident:
                for budget in budgets:
                    with attempt() as figures, start(checkpoint, arguments.device, quantization, budget) as held:
                        figures |= compare(resident, held, arguments.size, arguments.repeats)
                    keep("cases", f"{quantization}:{budget}", figures)
        chance = random_budgets(arguments.random)

        def draw_kinds(case: tuple[str, str]) -> dict[str, Any]:
            quantization, budget = case
            with attempt() as figures, start(checkpoint, arguments.device, quantization, budget) as held:
                figures |= {**held.loaded, "pictures": kinds(held, arguments.size)}
            return figures

        with ThreadPoolExecutor(AT_ONCE) as pool:
            for (quantization, budget), figures in zip(chance, pool.map(draw_kinds, chance), strict=True):
                keep("random", f"{quantization}:{budget}", figures)


@contextmanager
def attempt() -> Iterator[dict[str, Any]]:
    """Figures to be filled in; what fails is told among them, and the rest goes on."""
    figures: dict[str, Any] = {}
    try:
        yield figures
    except RuntimeError as error:
        figures["failed"] = str(error)


def random_budgets(count: int) -> list[tuple[str, str]]:
    """Quantizations and budgets, from the least that draws the usual picture to what keeps all weights."""
    numbers = random.Random(26)  # noqa: S311 - the same ones every time
    cases = []
    for i in range(count):
        quantization, quantized = (("none", None), ("fp8", 1))[i % 2]
        sizes = Sizes.of(quantized_bytes=quantized, text_quantized_bytes=quantized)
        least = least_budget(sizes)
        most = plan(sizes, None).peak_bytes() + 2**30
        cases.append((quantization, f"{numbers.randint(least // MIB + 1, most // MIB)}MiB"))
    return cases


def start(checkpoint: Path, device: str, quantization: str, budget: str | None) -> Drawer:
    """Start a process with a pipeline, which PyTorch holds to a budget, if there is one."""
    asked = {"checkpoint": str(checkpoint.absolute()), "device": device, "quantization": quantization, "budget": budget}
    return Drawer("from bench.residency import serve; serve()", json.dumps(asked))


def serve() -> None:
    """Be such a process: load, then draw what each line of standard input asks for."""
    asked = json.loads(sys.argv[1])
    budget = parse_budget(asked["budget"]) if asked["budget"] else None
    on_gpu = asked["device"] == "cuda"
    try:
        if budget and on_gpu:
            total = torch.cuda.get_device_properties(0).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, budget / total))
        start = time.monotonic()
        with watched_ram() as ram:
            if budget:
                dtype = torch.bfloat16 if on_gpu else torch.float32
                pipeline = ZImagePipeline.from_pretrained(
                    asked["checkpoint"], asked["device"], dtype, None, asked["quantization"], vram_budget=budget
                )
            else:
                pipeline = load(asked["checkpoint"], asked["device"], asked["quantization"])
        made = pipeline.plan
        assert made is not None
        told = {
            "load_seconds": time.monotonic() - start,
            "residency": made.residency,
            "streamed": made.streamed,
            "predicted_extra_ms": made.seconds_per_picture() * 1000,
            "predicted_prompt_extra_ms": made.seconds_per_prompt() * 1000,
            "pinned_mib": made.pinned_bytes / MIB,
            "load_ram_beyond_pinned_mib": ram["most_mib"] - made.pinned_bytes / MIB,
            "largest_pixels": made.largest(Picture()) if made.budget_bytes else None,
            **({"load_peak_mib": torch.cuda.max_memory_allocated() / MIB} if on_gpu else {}),
        }
        print(json.dumps(told), flush=True)
        for line in sys.stdin:
            print(json.dumps(drawn(pipeline, json.loads(line))), flush=True)
    except Exception as error:  # noqa: BLE001 - told to the process that asks, which goes on
        print(json.dumps({"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:1000]}"}), flush=True)


def drawn(pipeline: ZImagePipeline, asked: dict[str, Any]) -> dict[str, Any]:
    """Draw; return what it took, or why it was refused."""
    drawing = Drawing(**{"num_inference_steps": STEPS, **asked})
    start = time.monotonic()
    try:
        generation = pipeline.generate(drawing)
    except ValueError as error:
        return {"refused": str(error)}
    seconds = time.monotonic() - start
    shape = drawing.picture
    picture = Picture(
        shape.height, shape.width, shape.num_images, shape.guided, shape.step_cache, caption_tokens=PROMPT_TOKENS
    )
    assert pipeline.plan is not None
    on_gpu = pipeline.device.type == "cuda"
    return {
        "total_ms": seconds * 1000,
        **{f"{stage}_ms": each * 1000 for stage, each in generation.timings.items()},
        "decoding": pipeline.plan.decoding(picture),
        "peak_mib": generation.peak_vram_bytes / MIB,
        "predicted_mib": pipeline.plan.peak_bytes(picture) / MIB,
        **({"reserved_mib": torch.cuda.max_memory_reserved() / MIB} if on_gpu else {}),
        "digest": hashlib.sha256(generation.images.numpy().tobytes()).hexdigest(),
    }


@contextmanager
def watched_ram() -> Iterator[dict[str, float]]:
    """The most memory that is no page of a file, beyond what it was, in MiB."""
    before, found, done = anonymous_mib(), {"most_mib": 0.0}, threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            found["most_mib"] = max(found["most_mib"], anonymous_mib() - before)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


def anonymous_mib() -> float:
    """This process' memory that is no page of a file."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")) / 1024


def compare(resident: Drawer, held: Drawer, size: int, repeats: int) -> dict[str, Any]:
    """Draw in turns with both; return the figures of the one within a budget beside the other's."""
    sides = {"height": size, "width": size}
    both = {"resident": resident, "held": held}
    same = next_prompt()
    first = {name: drawer.draw({"prompt": same, **sides}) for name, drawer in both.items()}
    warm = time.monotonic() + LOAD_SECONDS
    while time.monotonic() < warm:
        for drawer in both.values():
            drawer.draw({"prompt": same, **sides})
    runs: dict[str, dict[str, list[dict[str, Any]]]] = {
        kind: {name: [] for name in both} for kind in ("same_prompt", "new_prompt")
    }
    for _ in range(repeats):
        new = next_prompt()
        for name, drawer in both.items():
            runs["same_prompt"][name].append(drawer.draw({"prompt": same, **sides}))
        for name, drawer in both.items():
            runs["new_prompt"][name].append(drawer.draw({"prompt": new, **sides}))
    medians = {
        kind: {name: statistics.median(run["total_ms"] for run in found) for name, found in each.items()}
        for kind, each in runs.items()
    }
    known, unknown = medians["same_prompt"], medians["new_prompt"]
    mine = [run for each in runs.values() for run in each["held"]]
    peak = max(run["peak_mib"] for run in mine)
    return {
        **held.loaded,
        "total_ms": known["held"],
        "resident_ms": known["resident"],
        "times_resident": known["held"] / known["resident"],
        "new_prompt_ms": unknown["held"],
        "new_prompt_extra_ms": (unknown["held"] - known["held"]) - (unknown["resident"] - known["resident"]),
        **{f"{stage}_ms": statistics.median(run[f"{stage}_ms"] for run in mine) for stage in ("denoise", "decode")},
        "decoding": first["held"]["decoding"],
        "bits_equal": first["held"]["digest"] == first["resident"]["digest"],
        "peak_mib": peak,
        "predicted_mib": first["held"]["predicted_mib"],
        "resident_peak_mib": first["resident"]["peak_mib"],
        "reserved_mib": mine[-1].get("reserved_mib"),
        "one_and_a_half": held.draw({"prompt": same, "height": size * 3 // 2, "width": size * 3 // 2}),
    }


def kinds(held: Drawer, size: int) -> dict[str, Any]:
    """Pictures of several kinds, up to one that fails: each with its peak and what was predicted, or its refusal."""
    side = held.loaded["largest_pixels"]
    asked: dict[str, dict[str, Any]] = {
        "plain": {"height": size, "width": size},
        "half": {"height": size // 2, "width": size // 2},
        "guided, step cache": {"height": size, "width": size, "guidance_scale": 4.0, "step_cache": "quality"},
        "two": {"height": size, "width": size, "num_images": 2},
        "one and a half": {"height": size * 3 // 2, "width": size * 3 // 2},
        "plain again": {"height": size, "width": size},
    }
    if side:
        edge = min(2 * size, int(side**0.5) // 16 * 16)
        asked["largest"] = {"height": edge, "width": edge, "num_inference_steps": 2}
    found = {}
    for name, fields in asked.items():
        try:
            figures = held.draw({"prompt": f"{PROMPT} 0001", **fields})
        except RuntimeError as error:
            found[name] = {"failed": str(error)}
            break
        if figures.get("predicted_mib"):
            figures["peak_by_predicted"] = figures["peak_mib"] / figures["predicted_mib"]
        found[name] = figures
    return found


def bandwidth() -> float:
    """GB a second from pinned host memory to the GPU."""
    source = torch.empty(2**30, dtype=torch.uint8, pin_memory=True)
    target = torch.empty_like(source, device="cuda")
    target.copy_(source)
    torch.cuda.synchronize()
    start = time.monotonic()
    for _ in range(10):
        target.copy_(source, non_blocking=True)
    torch.cuda.synchronize()
    return 10 * 2**30 / (time.monotonic() - start) / 1e9


if __name__ == "__main__":
    main()
