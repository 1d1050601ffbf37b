"""What a step cache does to the bundled model's pictures: settings against steps skipped and likeness to uncached ones.

    python -m bench.quality.step_cache [--prompts N] [--sweep N] [--device cuda|cpu] [--readers N] [--rows FILE]
                                       [--out FILE]

Prompts are captions that were kept out of training, drawn at 128×128 in 8 steps, in float32, so that nothing but the
skipped layers tells a picture from the one without a cache. For each setting there are the layers that a picture took,
the steps that it skipped and in which patterns ("1" computed), PSNR and SSIM (of 8-bit pictures; 11×11 Gaussian
window), and how much worse the pictures follow their prompts, in pairs (`bench.quality.adherence`). All prompts are
drawn with the settings that people name, the first of them (`--sweep`) with the others too.

What was measured is in `--rows`, a line a prompt; the same command goes on from there where it was cut off.
"""

import argparse
import json
import math
import statistics
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from bench.quality.adherence import STEPS, Prompt, compare_in_pairs, grade, sample_prompts
from bench.quality.reading import Reading, read
from bench.setting import describe
from pipeline import TINY_CHECKPOINT, Drawing, StepCache, ZImagePipeline
from pipeline.model.stack import Conditioning, Stack
from pipeline.skipping import PRESETS, Choice
from pipeline.wrappers.step_cache import StepCachingStack

SIDE = 128
CHUNK = 100  # prompts between two looks at the file
NAMED: Mapping[str, Choice] = {
    "off": None,
    **PRESETS,
    "defaults": {},  # Cache-DiT's own, as SGLang sets them
    "mask 11101001": {"mask": "11101001"},  # what Cache-DiT advises for Turbo
}


def of_presets(threshold: float, max_skips: int, taylor_order: int, warmup: int = 1, **others: Any) -> StepCache:
    """Settings of the kind that the presets are."""
    return StepCache(
        threshold=threshold,
        max_skips=max_skips,
        taylor_order=taylor_order,
        warmup=warmup,
        **{"protect_last": True, **others},
    )


SWEEP: Mapping[str, Choice] = {
    "R0.15 MC1 O1": of_presets(0.15, 1, 1),
    "R0.25 MC1 O0": of_presets(0.25, 1, 0),
    "R0.25 MC1 O2": of_presets(0.25, 1, 2),
    "R0.25 MC1 O1, last step unprotected": of_presets(0.25, 1, 1, protect_last=False),
    "R0.25 MC2 O1": of_presets(0.25, 2, 1),
    "R0.4 MC1 O1": of_presets(0.4, 1, 1),
    "R0.4 MC2 O0": of_presets(0.4, 2, 0),
    "R0.4 MC3 O1": of_presets(0.4, 3, 1),
    "R0.6 MC3 O1": of_presets(0.6, 3, 1),
    "W2 R0.25 MC1 O1": of_presets(0.25, 1, 1, warmup=2),
    "W2 R0.4 MC2 O1": of_presets(0.4, 2, 1, warmup=2),
    "W3 R0.4 MC1 O1": of_presets(0.4, 1, 1, warmup=3),
    "F2 R0.4 MC2 O1": of_presets(0.4, 2, 1, first=2),
    "B1 R0.4 MC2 O1": of_presets(0.4, 2, 1, last=1),
    "F2 B1 W4 R0.4 MC4 O2, SGLang's example": StepCache(2, 1, 4, 0.4, 4, taylor_order=2),
}

Row = dict[str, dict[str, Any]]  # by setting: pattern, PSNR, SSIM and scores of one prompt's picture


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--prompts", type=int, default=4000, help="how many, half of them Chinese")
    parser.add_argument("--sweep", type=int, default=400, help="of them, how many are drawn with all settings")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--readers", type=int, default=1, help="processes that read pictures")
    parser.add_argument("--rows", type=Path, default=Path("out/step-cache-quality.jsonl"))
    parser.add_argument("--out", type=Path, default=Path("bench/results/step-cache-quality.json"))
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device: --device cpu takes half a second a picture")
    device = torch.cuda.get_device_name() if arguments.device == "cuda" else None
    description = describe("bench.quality.step_cache", "torch", "torchmetrics", device=device)
    prompts = sample_prompts(arguments.prompts, seed=0)
    for file in (arguments.rows, arguments.out):
        file.parent.mkdir(parents=True, exist_ok=True)
    rows = read_rows(arguments.rows)[: len(prompts)]
    drawer = Drawer(arguments.device)
    with ProcessPoolExecutor(arguments.readers, get_context("spawn")) as readers:
        for start in range(len(rows), len(prompts), CHUNK):
            chunk = [
                drawer.measure(prompt, NAMED if start + i >= arguments.sweep else {**NAMED, **SWEEP}, readers)
                for i, prompt in enumerate(prompts[start : start + CHUNK])
            ]
            new = [finished(row, prompt) for row, prompt in zip(chunk, prompts[start:], strict=False)]
            with arguments.rows.open("a") as file:
                file.writelines(json.dumps(row) + "\n" for row in new)
            rows += new
            arguments.out.write_text(json.dumps({**description, **summarise(prompts, rows)}, indent=1) + "\n")
            print(f"{len(rows)} of {len(prompts)} prompts", flush=True)
    result = {**description, **summarise(prompts, rows)}
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print_table(result["settings"])


class Drawer:
    """The bundled model, with a look at the steps in which its middle layers run."""

    def __init__(self, device: str) -> None:
        self._pipeline = ZImagePipeline.from_pretrained(TINY_CHECKPOINT, device, torch.float32)
        transformer = self._pipeline.transformer
        cached = transformer.stack
        assert isinstance(cached, StepCachingStack)
        self._computed = ComputedSteps(cached.stack, transformer.params.num_layers // 2)
        transformer.stack = StepCachingStack(self._computed, transformer.params.num_layers)

    def measure(self, prompt: Prompt, settings: Mapping[str, Choice], readers: Executor) -> Row:
        """Draw a prompt with each of the settings, "off" first; see `finished` for their readings."""
        row: Row = {}
        exact = torch.empty(0)
        for name, choice in settings.items():
            self._computed.steps.clear()
            drawing = Drawing(prompt.text, None, SIDE, SIDE, STEPS, seed=prompt.seed, step_cache=choice)
            image = self._pipeline.generate(drawing).images[0]
            row[name] = {"pattern": "".join("01"[step in self._computed.steps] for step in range(STEPS))}
            if name == "off":
                exact = image
            else:
                row[name] |= likeness(image.to(self._pipeline.device), exact.to(self._pipeline.device))
            row[name]["reading"] = readers.submit(read, image.numpy())
        return row


class ComputedSteps:
    """Runs another stack's layers, and notes the steps in which one of the middle runs."""

    def __init__(self, stack: Stack, layer: int) -> None:
        self._stack = stack
        self._layer = layer
        self.steps: set[int] = set()

    def run(self, x: Tensor, time: Tensor, conditioning: Conditioning, first: int, last: int) -> Tensor:
        """Run a range of layers, as in `Stack`."""
        if first <= self._layer < last:
            self.steps.add(conditioning.rows[0].step)
        return self._stack.run(x, time, conditioning, first, last)


def likeness(image: Tensor, exact: Tensor) -> dict[str, float | None]:
    """PSNR in dB, None where they are the same, and SSIM of two pictures, uint8 `[H, W, 3]`."""
    image, exact = (x.permute(2, 0, 1)[None].float() for x in (image, exact))
    error = float((image - exact).square().mean())
    ssim = structural_similarity_index_measure(image, exact, data_range=255.0)
    assert isinstance(ssim, Tensor)
    return {"psnr": 10 * math.log10(255**2 / error) if error else None, "ssim": float(ssim)}


def finished(row: Row, prompt: Prompt) -> Row:
    """Wait for the readings of a row; scores take their place."""
    for entry in row.values():
        reading: Future[Reading] = entry.pop("reading")
        entry["scores"] = {name: float(score) for name, score in grade(reading.result(), prompt.scene).items()}
    return row


def read_rows(file: Path) -> list[Row]:
    """The rows that were measured before; ends the command where they were with other settings."""
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    if rows and list(rows[0]) != [*NAMED, *SWEEP]:
        sys.exit(f"--rows: {file} is of other settings; remove it, or name another file")
    return rows


def summarise(prompts: Sequence[Prompt], rows: Sequence[Row]) -> dict[str, Any]:
    """Figures of each setting, over the prompts that were drawn with it."""
    layers = json.loads((TINY_CHECKPOINT / "transformer" / "config.json").read_text())["n_layers"]
    settings = {}
    for name, choice in {**NAMED, **SWEEP}.items():
        found = [(prompt, row) for prompt, row in zip(prompts, rows, strict=False) if name in row]
        if not found:
            continue
        cache = StepCache.of(choice)
        entries = [row[name] for _, row in found]
        skipped = statistics.mean(entry["pattern"].count("0") for entry in entries)
        settings[name] = {
            "step_cache": asdict(cache) if cache else None,
            "prompts": len(found),
            "steps_skipped": skipped,
            "layers": STEPS * layers - skipped * (layers - cache.first - cache.last if cache else 0),
            "patterns": dict(Counter(entry["pattern"] for entry in entries).most_common()),
        }
        if cache:
            psnr = sorted(math.inf if entry["psnr"] is None else entry["psnr"] for entry in entries)
            settings[name] |= {
                "psnr_db_median": _number(statistics.median(psnr)),
                "psnr_db_of_the_worst_tenth": _number(psnr[len(psnr) // 10]),
                "ssim_mean": statistics.mean(entry["ssim"] for entry in entries),
                "adherence": compare_in_pairs(
                    [prompt.scene.kind for prompt, _ in found],
                    {
                        which: [row[of]["scores"] for _, row in found]
                        for which, of in (("off", "off"), ("cached", name))
                    },
                ),
            }
    return {"prompts": len(rows), "steps": STEPS, "layers": layers, "settings": settings}


def _number(psnr: float) -> float | None:
    return psnr if math.isfinite(psnr) else None


def print_table(settings: Mapping[str, Mapping[str, Any]]) -> None:
    """Print what matters for people: a row for each setting."""
    print(f"{'':40}{'prompts':>8}{'skipped':>9}{'layers':>8}{'PSNR':>7}{'SSIM':>8}{'points':>8}{'±':>6}  most frequent")
    for name, entry in settings.items():
        pattern = next(iter(entry["patterns"]))
        line = f"{name:40}{entry['prompts']:8}{entry['steps_skipped']:9.2f}{entry['layers']:8.1f}"
        if entry["step_cache"]:
            points = entry["adherence"]["all"]
            line += f"{entry['psnr_db_median'] or math.inf:7.1f}{entry['ssim_mean']:8.4f}"
            line += f"{points['points']:8.2f}{points['points_within']:6.2f}"
        else:
            line += " " * 29
        print(f"{line}  {pattern}")


if __name__ == "__main__":
    main()
