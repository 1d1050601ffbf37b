"""The step cache around fused layers: outside of CUDA graphs, with and without fp8, its decisions read by polling."""

from typing import Any

import pytest
import torch
from test_fused import psnr

from pipeline import TINY_CHECKPOINT, Drawing, ZImagePipeline, memory_sizes
from pipeline.wrappers.step_cache import StepCachingStack
from support.wrapping import Recording

PROMPT = "a red circle on a blue background"
SIZE = {"height": 128, "width": 128}


def computed(pipe: ZImagePipeline, **asked: Any) -> list[list[int]]:
    """The steps in which each row ran the middle layers."""
    cached = pipe.transformer.stack
    assert isinstance(cached, StepCachingStack)
    recording = Recording(cached.stack)
    pipe.transformer.stack = StepCachingStack(recording, pipe.transformer.params.num_layers)
    pipe(PROMPT, **SIZE, **asked)
    pipe.transformer.stack = cached
    return [recording.computed(row, 1) for row in range(len(recording.rows))]


@pytest.mark.parametrize("quantization", ["none", "fp8"])
@pytest.mark.parametrize("graph_tokens", [memory_sizes.GRAPH_TOKENS, 0])
def test_steps_are_skipped_and_the_picture_stays_near(
    monkeypatch: pytest.MonkeyPatch, quantization: str, graph_tokens: int
) -> None:
    monkeypatch.setattr(memory_sizes, "GRAPH_TOKENS", graph_tokens)
    pipe = ZImagePipeline.from_pretrained(TINY_CHECKPOINT, device="cuda", quantization=quantization)
    off = pipe(PROMPT, **SIZE, seed=3)  # type: ignore[arg-type]

    for _ in range(2):  # recorded, then replayed
        never = pipe.generate(Drawing(PROMPT, **SIZE, seed=3, step_cache={"mask": "11111111"}))
        assert torch.equal(never.images, off)
        assert never.steps_skipped == [0]
        for step_cache, least in (("quality", 3), ("fast", 3), ({"mask": "11101001"}, 3)):
            drawn = pipe.generate(Drawing(PROMPT, **SIZE, seed=3, step_cache=step_cache))  # type: ignore[arg-type]
            assert drawn.steps_skipped[0] >= least
            assert 20 < psnr(drawn.images, off) < 80


@pytest.mark.parametrize("guidance_scale", [0.0, 2.0])
@pytest.mark.parametrize("quantization", ["none", "fp8"])
def test_each_image_is_the_one_that_its_seed_gives_alone(quantization: str, guidance_scale: float) -> None:
    pipe = ZImagePipeline.from_pretrained(TINY_CHECKPOINT, device="cuda", quantization=quantization)
    options: dict[str, Any] = {**SIZE, "guidance_scale": guidance_scale, "step_cache": {"warmup": 2, "threshold": 0.2}}
    together = pipe.generate(Drawing(PROMPT, seed=3, num_images=3, **options))
    alone = [pipe.generate(Drawing(PROMPT, seed=3 + i, **options)) for i in range(3)]

    assert torch.equal(together.images, torch.cat([image.images for image in alone]))
    assert together.steps_skipped == [image.steps_skipped[0] for image in alone]
    assert max(together.steps_skipped) > 0


@pytest.mark.parametrize("asked", [{"step_cache": "quality"}, {"step_cache": "fast", "guidance_scale": 2.0}])
def test_the_same_steps_are_skipped_as_on_the_cpu(asked: dict[str, Any]) -> None:
    expected, found = (
        computed(ZImagePipeline.from_pretrained(TINY_CHECKPOINT, device=device, dtype=torch.float32), **asked)
        for device in ("cpu", "cuda")
    )
    assert found == expected
    assert all(0 < len(row) < 8 for row in found)
