"""Images are objects of their own: what is remembered of one, or done to it, reaches no other."""

import pytest
import torch
from torch import Tensor

from pipeline import Drawing, ZImagePipeline
from pipeline.denoise import Step, denoise, images_of, trajectory
from pipeline.drawing import Branch, Geometry
from pipeline.model.stack import Conditioning, Stack
from pipeline.timeline import Progress

CPU = torch.device("cpu")
STEPS = 4


class Counting:
    """A wrapper that counts, in each row's memory, how often the row was evaluated."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self.rows: list[Branch] = []

    def run(self, x: Tensor, time: Tensor, conditioning: Conditioning, first: int, last: int) -> Tensor:
        assert len(conditioning.rows) == len(x)
        for row in conditioning.rows:
            assert row.step == row.memory.get(self, 0)
            row.memory[self] = row.step + 1
            self.rows += [] if row in self.rows else [row]
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
    first = [row.memory[counting] for row in counting.rows]
    small("a cat", num_images=images, guidance_scale=guidance, cfg_truncation=truncation, **asked)

    assert sorted(first) == evaluations
    assert {row.drawing.guidance_scale for row in counting.rows} == {guidance}
    assert sorted(row.memory[counting] for row in counting.rows) == sorted(evaluations * 2)  # of the next call, new


@torch.inference_mode()
def test_one_image_can_be_stopped_alone(small: ZImagePipeline) -> None:
    drawing = Drawing("a cat", height=64, width=48, seed=5, num_images=3, num_inference_steps=STEPS)
    steps = trajectory(small.schedule, drawing, CPU)
    captions, noise = [small.text_encoder.encode(drawing.prompt).features], drawing.start(Geometry(16, 8, 2, 2))

    def run(taken: list[Step], stop_after: int | None = None) -> list[Tensor]:
        images = images_of(drawing, noise, captions, small.transformer, taken)

        def on_step(step: int, _total: int) -> None:
            if step == stop_after:
                images[1].stop()

        denoise(small.transformer, images, taken, Progress(CPU, len(taken), on_step))
        return [image.latents for image in images]

    whole, stopped, short = run(steps), run(steps, stop_after=2), run(steps[:2])

    assert torch.equal(stopped[0], whole[0])
    assert torch.equal(stopped[1], short[1])
    assert torch.equal(stopped[2], whole[2])
    assert not torch.equal(stopped[1], whole[1])
