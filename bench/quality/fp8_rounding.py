"""What fp8 does to the bundled model's pictures, by simulation on the CPU.

    python -m bench.quality.fp8_rounding [--prompts N] [--out FILE]

Most matrices of the bundled model (w1, w2, w3) have sizes that fp8 products on a GPU do not take, so the rounding is
simulated: weights and activations go through e4m3 with the scales of `pipeline.formats.fp8`, everything else is
float32. Each kind of layer alone, and all that `quantization="fp8"` changes: the PSNR of the pictures to those without.
How well pictures in fp8 follow their prompts, `bench.quality.fp8_adherence` measures on a GPU.
"""

import argparse
import copy
import json
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.quality.adherence import Pixels, Prompt, sample_prompts
from bench.setting import describe
from pipeline import TINY_CHECKPOINT, ZImagePipeline
from pipeline.formats.fp8 import E4M3
from pipeline.recipe import Parts

SIDE = 128
BLOCKS = r"(noise_refiner|layers)\.\d+\."
KINDS = {
    "qkv": BLOCKS + r"attention\.to_[qkv]",
    "out": BLOCKS + r"attention\.to_out",
    "w13": BLOCKS + r"feed_forward\.w[13]",
    "w2": BLOCKS + r"feed_forward\.w2",
    "first layer": r"layers\.0\.(attention|feed_forward)",
    "last layer": r"layers\.6\.(attention|feed_forward)",
    "noise refiner": r"noise_refiner\.\d+\.(attention|feed_forward)",
    "modulation (stays bf16)": BLOCKS + r"adaLN_modulation",
    "context refiner (stays bf16)": r"context_refiner",
    "embedders, final layer (stay bf16)": r"t_embedder|cap_embedder|all_x_embedder|all_final_layer",
}
ALL = BLOCKS + r"(attention|feed_forward)"


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--out", type=Path, default=Path("bench/results/fp8-tiny-cpu.json"))
    arguments = parser.parse_args()
    exact = ZImagePipeline.from_pretrained(TINY_CHECKPOINT, "cpu", torch.float32)
    prompts = sample_prompts(arguments.prompts, seed=0)
    result: dict[str, Any] = {
        **describe("bench.quality.fp8_rounding", "torch"),
        "pictures": len(prompts),
        "psnr_db_median": {},
    }

    reference = draw(exact, prompts)
    for kind, (pattern, text) in {
        **{kind: (pattern, False) for kind, pattern in KINDS.items()},
        "text encoder": (None, True),
        "all of the transformer": (ALL, False),
        "all": (ALL, True),
    }.items():
        result["psnr_db_median"][kind] = compare(draw(simulated(exact, pattern, text=text), prompts), reference)
        print(f"{kind:40}{result['psnr_db_median'][kind]:8.1f} dB", flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


class SimulatedFp8(nn.Module):
    """A linear layer whose weights and inputs are rounded to e4m3 row by row."""

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__()
        self.weight = nn.Buffer(rounded(plain.weight))
        self.bias = plain.bias

    def forward(self, x: Tensor) -> Tensor:
        """From `[…, in]` to `[…, out]`."""
        return nn.functional.linear(rounded(x.flatten(0, -2)).view(x.shape), self.weight, self.bias)


def rounded(rows: Tensor) -> Tensor:
    """Rows to e4m3 and back."""
    values, scales = E4M3.quantize(rows)
    return values.to(rows.dtype) * scales


def simulated(exact: ZImagePipeline, pattern: str | None, *, text: bool) -> ZImagePipeline:
    """A pipeline whose linear layers of matching names, and those of the text encoder if wanted, round to e4m3."""
    encoder, transformer = exact.text_encoder, exact.transformer
    if text:
        encoder = type(encoder)(copy.deepcopy(encoder.model), encoder.tokenizer)
        replace(encoder.model, "")
    if pattern is not None:
        transformer = copy.deepcopy(transformer)
        replace(transformer, pattern)
    return ZImagePipeline(Parts(encoder, transformer, exact.autoencoder, exact.schedule, exact.device))


def replace(model: nn.Module, pattern: str) -> None:
    """Let the linear layers with names that start with `pattern` round to e4m3."""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and re.match(pattern, name):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, SimulatedFp8(module))


def draw(pipeline: ZImagePipeline, prompts: Sequence[Prompt]) -> list[Pixels]:
    """A picture of each prompt."""
    return [pipeline(prompt.text, height=SIDE, width=SIDE, seed=prompt.seed)[0].numpy() for prompt in prompts]


def compare(pictures: Sequence[Pixels], reference: Sequence[Pixels]) -> float:
    """The median PSNR in dB."""
    errors = [
        (torch.tensor(a).float() - torch.tensor(b).float()).square().mean()
        for a, b in zip(pictures, reference, strict=True)
    ]
    return statistics.median(float(10 * torch.log10(255**2 / error)) for error in errors)


if __name__ == "__main__":
    main()
