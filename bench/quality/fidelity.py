"""How far bfloat16 and fp8 are from float32, at full size, beside diffusers' own bfloat16.

    python -m bench.quality.fidelity [--checkpoint DIR] [--size N] [--out FILE]

All draw the same latents from the same weights, by default random ones; the reference is the plain path in float32 on
the same GPU. Errors are relative: the norm of the difference by the reference's norm; of one forward that of the
predicted velocity, of 8 steps that of the latents. Then, with fp8: the error behind each block, and the error of one
forward when one kind of matrix alone is in fp8. Needs a GPU of 80 GB, and diffusers.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from bench.pipeline import free
from bench.setting import describe, full_size, require_gpu
from pipeline import ZImagePipeline, memory_sizes
from pipeline.formats.fp8 import E4M3, FP8
from pipeline.model.transformer import Transformer

if TYPE_CHECKING:  # it needs Triton
    from pipeline.cuda.transformer import FusedBlock

PROMPT = "A red fox in deep snow at dawn, low sun."
STEPS = 8
KINDS = ("qkv", "out", "w13", "w2")
TIMESTEP = 0.3

Draw = Callable[[Tensor, int], Tensor]  # latents and number of steps to latents


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--checkpoint", type=Path, help="default: a random one of full size")
    parser.add_argument("--size", type=int, default=1024, help="side of the picture, pixels")
    parser.add_argument("--out", type=Path, default=Path("bench/results/fidelity.json"))
    arguments = parser.parse_args()
    require_gpu()
    with full_size(arguments.checkpoint, "cuda") as checkpoint:
        gpu = torch.cuda.get_device_name()
        setting = describe("bench.quality.fidelity", "torch", "triton", "diffusers", device=gpu)
        result = {**setting, "size": arguments.size, **compare(checkpoint, arguments.size)}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


@torch.inference_mode()
def compare(checkpoint: Path, size: int) -> dict[str, Any]:
    """Draw with each and compare; return the errors."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(1, 16, size // 8, size // 8, generator=generator)

    pipeline = ZImagePipeline.from_pretrained(str(checkpoint), "cuda", torch.float32)
    exact = drawn(ours(pipeline, size), noise)
    caption = pipeline.text_encoder.encode(PROMPT).features
    blocks = after_blocks(pipeline.transformer, caption, noise)
    velocity = predicted(pipeline.transformer, caption, noise)
    del pipeline
    free()

    result: dict[str, Any] = {
        "errors": {"diffusers bfloat16": errors(drawn(diffusers(checkpoint, size), noise), exact)}
    }
    free()
    for name, quantization in (("bfloat16", None), ("fp8", "fp8")):
        pipeline = ZImagePipeline.from_pretrained(str(checkpoint), "cuda", quantization=quantization)
        result["errors"][name] = errors(drawn(ours(pipeline, size), noise), exact)
        found = after_blocks(pipeline.transformer, caption, noise)
        result[f"{name}, behind each block"] = [error(a, b) for a, b in zip(found, blocks, strict=True)]
        if quantization is None:
            result["one kind in fp8"] = kinds(pipeline.transformer, caption, noise, velocity)
        del pipeline
        free()
    return result


def ours(pipeline: ZImagePipeline, size: int) -> Draw:
    """Draw with our pipeline."""
    return lambda noise, steps: pipeline(
        PROMPT, height=size, width=size, num_inference_steps=steps, latents=noise, output_type="latent"
    )


def diffusers(checkpoint: Path, size: int) -> Draw:
    """Draw with diffusers in bfloat16."""
    import diffusers

    pipeline: Any = diffusers.ZImagePipeline
    pipeline = pipeline.from_pretrained(checkpoint, torch_dtype=torch.bfloat16).to("cuda")
    pipeline.set_progress_bar_config(disable=True)

    def draw(noise: Tensor, steps: int) -> Tensor:
        latents: Tensor = pipeline(
            PROMPT,
            height=size,
            width=size,
            num_inference_steps=steps,
            guidance_scale=0.0,
            latents=noise.cuda(),
            output_type="latent",
        ).images
        return latents.float().cpu()

    return draw


def drawn(draw: Draw, noise: Tensor) -> dict[str, Tensor]:
    """The velocity of one step, which leads from noise to 0, and the latents of 8."""
    return {"one forward": draw(noise, 1) - noise, f"{STEPS} steps": draw(noise, STEPS)}


def errors(found: dict[str, Tensor], exact: dict[str, Tensor]) -> dict[str, float]:
    """The relative error of each."""
    return {name: error(found[name], exact[name]) for name in exact}


def error(found: Tensor, exact: Tensor) -> float:
    """The norm of the difference by the norm of the exact one."""
    return float((found.double() - exact.double()).norm() / exact.double().norm())


def forward(transformer: Transformer, caption: Tensor, noise: Tensor) -> Tensor:
    """One evaluation, launched kernel by kernel, so that what hooks see is of this one."""
    memory_sizes.GRAPH_TOKENS = 0
    prepared = transformer.prepare([caption], *noise.shape[-2:])
    velocity: Tensor = transformer(noise.cuda(), torch.tensor([TIMESTEP], device="cuda"), prepared)
    return velocity


def predicted(transformer: Transformer, caption: Tensor, noise: Tensor) -> Tensor:
    """The predicted velocity on the CPU."""
    return forward(transformer, caption, noise).float().cpu()


def after_blocks(transformer: Transformer, caption: Tensor, noise: Tensor) -> list[Tensor]:
    """The stream behind each block with a timestep, noise refiners first, on the CPU."""
    from pipeline.cuda.transformer import FusedBlock

    streams: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        # A fused block changes the stream in place and returns what the next one reads.
        stream = inputs[0] if isinstance(module, FusedBlock) else output
        streams.append(stream.float().cpu())

    with hooks(blocks_of(transformer), keep):
        forward(transformer, caption, noise)
    return streams


@contextmanager
def hooks(modules: list[nn.Module], hook: Callable[..., None]) -> Iterator[None]:
    """Call `hook` behind each module while the context lasts."""
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def blocks_of(transformer: Transformer) -> list[nn.Module]:
    """All blocks with a timestep, in the order in which they run."""
    parts = (transformer.noise_refiner, transformer.layers)
    return [block for part in parts for block in getattr(part, "blocks", part)]  # the fused have `blocks`


def kinds(transformer: Transformer, caption: Tensor, noise: Tensor, exact: Tensor) -> dict[str, float]:
    """The error of one forward when one kind of matrix is in fp8, and when all kinds of one block are."""
    blocks = cast("list[FusedBlock]", blocks_of(transformer))

    def with_fp8(places: list[tuple["FusedBlock", str]]) -> float:
        kept = [getattr(block, kind) for block, kind in places]
        for (block, kind), matrix in zip(places, kept, strict=True):
            setattr(block, kind, FP8.matrix(E4M3.quantize(matrix.weight)))
        found = error(predicted(transformer, caption, noise), exact)
        for (block, kind), matrix in zip(places, kept, strict=True):
            setattr(block, kind, matrix)
        return found

    by_kind = {kind: with_fp8([(block, kind) for block in blocks]) for kind in KINDS}
    by_block = {f"block {i}": with_fp8([(block, kind) for kind in KINDS]) for i, block in enumerate(blocks)}
    return {"none": error(predicted(transformer, caption, noise), exact), **by_kind, **by_block}


if __name__ == "__main__":
    main()
