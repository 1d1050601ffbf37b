"""From noise to latents: the loop over steps and images, with classifier-free guidance (arXiv 2207.12598).

Each image is an object of its own: what wrappers of the stack remember from one step to the next lies with the image,
apart for each of its guidance branches, so none can take another's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.drawing import Branch, Drawing
from pipeline.model.scheduler import Schedule, euler_step, sigmas
from pipeline.model.transformer import Prepared, Transformer
from pipeline.skipping import StepCache
from pipeline.timeline import Progress


class Step(NamedTuple):
    """One step of a trajectory; tensors are on the device."""

    number: int  # from 0
    timestep: Tensor  # [1], 0 for pure noise, 1 for a finished image
    sigma: Tensor  # noise level before the step
    sigma_next: Tensor  # and after it
    guided: bool


@dataclass(frozen=True)
class Guidance:
    """How far, and for how long, to go from the negative prompt's prediction to the prompt's and beyond."""

    scale: float  # 0: not at all
    norm_limit: float  # of the guided prediction, in norms of the unguided one; 0: none
    truncation: float  # the last timestep, 0 to 1, that is guided

    @classmethod
    def of(cls, drawing: Drawing) -> "Guidance":
        """What a drawing asks for."""
        return cls(drawing.guidance_scale, float(drawing.cfg_normalization), drawing.cfg_truncation)

    def applies(self, timestep: float) -> bool:
        """Whether a step is guided."""
        return self.scale > 0 and timestep <= self.truncation

    def combine(self, positive: Tensor, negative: Tensor) -> Tensor:
        """The guided prediction of two of one image."""
        output = positive + self.scale * (positive - negative)
        if self.norm_limit > 0:
            limit = self.norm_limit * torch.linalg.vector_norm(positive)
            norm = torch.linalg.vector_norm(output)
            output = torch.where(norm > limit, output * (limit / norm), output)
        return output


class Image:
    """One image on its way.

    Args:
        noise: float32 `[C, H, W]` on the device.
        drawing: asks for it.
        prepared: by whether a step is guided: of the prompt and the negative one, or of the prompt alone.
    """

    def __init__(self, noise: Tensor, drawing: Drawing, prepared: Mapping[bool, Prepared]) -> None:
        self.latents = noise[None]
        self.stopped = False
        self._guidance = Guidance.of(drawing)
        step_cache = StepCache.of(drawing.step_cache)
        self._branches = [Branch(drawing, step_cache) for _ in range(1 + drawing.guided)]  # the prompt's first
        rows = {True: self._branches, False: self._branches[:1]}
        self._prepared = {guided: replace(shared, rows=rows[guided]) for guided, shared in prepared.items()}

    @property
    def steps_skipped(self) -> float:
        """Those that skipped layers; as in `Generation`."""
        return sum(branch.steps_skipped for branch in self._branches)

    def stop(self) -> None:
        """Take no further step; the other images go on."""
        self.stopped = True

    def advance(self, transformer: Transformer, step: Step) -> None:
        """Take a step, unless the image was stopped."""
        if self.stopped:
            return
        for branch in self._branches:
            branch.step = step.number
        output = self._predict(transformer, step)
        self.latents = euler_step(self.latents, -output, step.sigma, step.sigma_next)

    def _predict(self, transformer: Transformer, step: Step) -> Tensor:
        """The negated velocity `[1, C, H, W]` in float32; both guidance branches are evaluated at once."""
        prepared = self._prepared[step.guided]
        x = self.latents.expand(len(prepared.rows), -1, -1, -1)
        output: Tensor = transformer(x, step.timestep, prepared).float()
        return self._guidance.combine(*output.chunk(2)) if step.guided else output


def trajectory(schedule: Schedule, drawing: Drawing, device: torch.device) -> list[Step]:
    """The steps from noise to image."""
    levels = sigmas(drawing.num_inference_steps, schedule.shift)
    timesteps = schedule.timesteps(levels[:-1])
    guided = [Guidance.of(drawing).applies(timestep) for timestep in timesteps.tolist()]
    levels, timesteps = levels.to(device), timesteps.to(device)
    return [Step(i, timesteps[i : i + 1], levels[i], levels[i + 1], guided[i]) for i in range(len(guided))]


def images_of(
    drawing: Drawing, noise: Tensor, captions: Sequence[Tensor], transformer: Transformer, steps: Sequence[Step]
) -> list[Image]:
    """Make the images of a drawing.

    Args:
        drawing: asks for them.
        noise: float32 `[num_images, C, H, W]` on the device.
        captions: features of the prompt and, with guidance, of the negative one.
        transformer: what will denoise them.
        steps: that they will take.
    """
    prepared = {
        guided: transformer.prepare(captions if guided else captions[:1], *noise.shape[-2:])
        for guided in {step.guided for step in steps}
    }
    return [Image(row, drawing, prepared) for row in noise]


def denoise(transformer: Transformer, images: Sequence[Image], steps: Sequence[Step], progress: Progress) -> None:
    """Take all steps with all images, in turns: each image is evaluated alone, so its bits are those of its seed."""
    for step in steps:
        for image in images:
            image.advance(transformer, step)
        progress.queued()
