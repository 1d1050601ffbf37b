"""Whether pictures in fp8 follow their prompts as those in bfloat16 do, with the bundled model on a GPU.

    python -m bench.quality.fp8_adherence [--prompts N] [--out FILE]

The same prompts and seeds are drawn by both, at 128×128 in 8 steps, and read by rule (`bench.quality.reading`). The
hidden width of the model's feed-forwards, 597, is no size that fp8 products take: here it is filled up to 608 with
zeros, which changes nothing of what they compute, so that all the matrices are in fp8 that are so at full size. For
each attribute there is the difference of the scores in points with its 95 % interval (pairs of pictures, normal
approximation), and how many pictures only one of both has right.
"""

import argparse
import json
from pathlib import Path

import torch
from torch import nn

from bench.quality.adherence import compare_in_pairs, sample_prompts, score
from bench.quality.fidelity import blocks_of
from bench.quality.fp8_rounding import compare, draw
from bench.setting import describe, require_gpu
from pipeline import TINY_CHECKPOINT, ZImagePipeline
from pipeline.formats.fp8 import FP8, Fp8Matrix
from pipeline.formats.number_format import NumberFormat
from pipeline.model.layers import FeedForward

COMPARED = 200  # pictures whose distance from float32's is measured


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--prompts", type=int, default=4000, help="how many, half of them Chinese")
    parser.add_argument("--out", type=Path, default=Path("bench/results/fp8-adherence.json"))
    arguments = parser.parse_args()
    require_gpu()
    prompts = sample_prompts(arguments.prompts, seed=0)
    exact = draw(ZImagePipeline.from_pretrained(TINY_CHECKPOINT, "cuda", torch.float32), prompts[:COMPARED])
    pictures = {"bfloat16": draw(padded(None), prompts), "fp8": draw(padded(FP8), prompts)}
    scores = {
        name: [score(picture, prompt.scene) for picture, prompt in zip(drawn, prompts, strict=True)]
        for name, drawn in pictures.items()
    }
    result = {
        **describe("bench.quality.fp8_adherence", "torch", "triton", device=torch.cuda.get_device_name()),
        "psnr_db_median_to_float32": {name: compare(drawn[:COMPARED], exact) for name, drawn in pictures.items()},
        "pictures_compared_to_float32": len(exact),
        "psnr_db_median_of_fp8_to_bfloat16": compare(pictures["fp8"], pictures["bfloat16"]),
        "attributes": compare_in_pairs([prompt.scene.kind for prompt in prompts], scores),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def padded(number_format: NumberFormat | None) -> ZImagePipeline:
    """The bundled model with feed-forwards of a width that fp8 takes."""
    from pipeline.cuda.transformer import FusedTransformer

    plain = ZImagePipeline.from_pretrained(TINY_CHECKPOINT, "cpu", torch.bfloat16)
    quantization = number_format.name if number_format else None
    pipeline = ZImagePipeline.from_pretrained(TINY_CHECKPOINT, "cuda", quantization=quantization)
    for module in plain.transformer.modules():
        if isinstance(module, FeedForward):
            more = -module.w2.in_features % FP8.multiple
            for linear, sides in ((module.w1, (0, 0, 0, more)), (module.w3, (0, 0, 0, more)), (module.w2, (0, more))):
                linear.weight = nn.Parameter(nn.functional.pad(linear.weight.detach(), sides))
    fused = FusedTransformer(plain.transformer, pipeline.device, number_format)
    blocks = blocks_of(fused)
    assert quantized(fused) == (4 * len(blocks) if number_format else 0)
    linears = sum(isinstance(module, nn.Linear) for module in plain.text_encoder.model.modules())
    assert quantized(pipeline.text_encoder.model) == (linears if number_format else 0)
    pipeline.transformer = fused
    return pipeline


def quantized(module: nn.Module) -> int:
    """How many matrices are in fp8."""
    return sum(isinstance(part, Fp8Matrix) for part in module.modules())


if __name__ == "__main__":
    main()
