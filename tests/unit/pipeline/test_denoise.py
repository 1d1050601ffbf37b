"""Images are objects of their own: what is remembered of one, or done to it, reaches no other."""

from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline import Drawing, ZImagePipeline
from pipeline.denoise import Guidance, Image, begin, denoise, trajectory
from pipeline.model.stack import Conditioning, Stack
from pipeline.timeline import Steps

CPU = torch.device("cpu")
STEPS = 4


class Counting:
    """A wrapper that counts, in each row's memory, how often the row was evaluated."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self.memories: list[dict[object, Any]] = []

    def run(self, x: Tensor, time: Tensor, conditioning: Conditioning, first: int, last: int) -> Tensor:
        assert len(conditioning.memories) == len(x)
        for memory in conditioning.memories:
            memory[self] = memory.get(self, 0) + 1
            if not any(memory is other for other in self.memories):
                self.memories.append(memory)
        return self._stack.run(x, time, conditioning, first, last)


@pytest.fixture
def counting(small: ZImagePipeline, monkeypatch: pytest.MonkeyPatch) -> Counting:
    wrapper = Counting(small.transformer.stack)
    monkeypatch.setattr(small.transformer, "stack", wrapper)
    return wrapper


@pytest.mark.parametrize(
    ("images", "guidance", "truncation", "evaluations"),
    [
        (1, 0.0, 1.0, [STEPS]),
        (3, 0.0, 1.0, [STEPS] * 3),
        (1, 4.0, 1.0, [STEPS] * 2),
        (2, 4.0, 1.0, [STEPS] * 4),
        (1, 4.0, 0.3, [3, STEPS]),  # the last step is not guided: the prompt's own branch goes on alone
        (1, 4.0, -1.0, [STEPS]),
    ],
)
def test_each_image_and_guidance_branch_has_a_memory_from_step_to_step(
    small: ZImagePipeline,
    counting: Counting,
    images: int,
    guidance: float,
    truncation: float,
    evaluations: list[int],
) -> None:
    asked = {"height": 64, "width": 48, "num_inference_steps": STEPS, "output_type": "latent"}
    small("a cat", num_images=images, guidance_scale=guidance, cfg_truncation=truncation, **asked)
    first = [memory[counting] for memory in counting.memories]
    small("a cat", num_images=images, guidance_scale=guidance, cfg_truncation=truncation, **asked)

    assert sorted(first) == evaluations
    assert sorted(memory[counting] for memory in counting.memories) == sorted(evaluations * 2)  # of the next call, new


@torch.inference_mode()
def test_one_image_can_be_stopped_alone(small: ZImagePipeline) -> None:
    drawing = Drawing("a cat", height=64, width=48, seed=5, num_images=3, num_inference_steps=STEPS)
    guidance = Guidance(scale=0.0, norm_limit=0.0, truncation=1.0)
    steps = trajectory(small.schedule, STEPS, guidance, CPU)
    captions = [small.text_encoder.encode(drawing.prompt).features]

    def run(stop_after: int | None) -> list[Image]:
        images = begin(small.transformer, drawing.start(16, 8), captions, guidance, steps)

        def on_step(step: int, _total: int) -> None:
            if step == stop_after:
                images[1].stop()

        denoise(small.transformer, images, steps, Steps(CPU, STEPS, on_step))
        return images

    whole, stopped = run(None), run(2)

    assert torch.equal(stopped[0].latents, whole[0].latents)
    assert torch.equal(stopped[2].latents, whole[2].latents)
    assert not torch.equal(stopped[1].latents, whole[1].latents)
    short = denoised(small, drawing.start(16, 8)[1:2], captions, guidance, steps[:2])
    assert torch.equal(stopped[1].latents, short)


def denoised(pipe: ZImagePipeline, noise: Tensor, captions: list[Tensor], guidance: Guidance, steps: Any) -> Tensor:
    images = begin(pipe.transformer, noise, captions, guidance, steps)
    denoise(pipe.transformer, images, steps, Steps(CPU, len(steps), None))
    return images[0].latents
