"""What goes into a pipeline and what comes out of it: a request to draw, and the pictures with what is told of them."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pipeline.memory_sizes import Picture
from pipeline.skipping import Choice, StepCache


class Geometry(NamedTuple):
    """What the model's shape asks of a picture's."""

    channels: int  # of the latents
    downscale: int  # pixels on a side of one latent pixel
    patch: int  # latent pixels on a side of one token
    layers: int  # of the stack


@dataclass(frozen=True, eq=False)
class Drawing:
    """A request for images of one prompt.

    Attributes:
        prompt: what to draw; read up to 512 tokens, chat template included.
        negative_prompt: what to stay away from; None means "". Without guidance it has no effect.
        height: in pixels, a multiple of 16.
        width: in pixels, a multiple of 16.
        num_inference_steps: evaluations of the transformer, 8 for Turbo.
        guidance_scale: 0 for none, as Turbo wants it; Z-Image base wants 4 to 5 (arXiv 2207.12598).
        seed: image i draws its noise from `seed + i`, so it equals the image that its seed gives alone.
        num_images: drawn side by side, each alone on the device: in a batch, matrix products are summed in another
            order, and the images would not quite be those that their seeds give alone.
        latents: `[num_images, 16, height / 8, width / 8]`, replaces the noise.
        output_type: "uint8" for pixels or "latent".
        on_step: called with (step, total) when a step is done, counted from 1; raising from it stops the run, on
            CUDA one step later.
        on_decode: called with (image, total) when the decoding of an image begins, counted from 1; raising from it
            stops the run, on CUDA one image later.
        cfg_normalization: limits the norm of the guided prediction to this factor of the unguided one's; True is 1.
        cfg_truncation: guides only while the progress from noise (0) to image (1) is at most this.
        cache_scope: what is remembered of one drawing speeds up those of the same scope alone, so that no time tells
            of another's; any word. It changes no pixel.
        step_cache: which steps skip layers, in the words of `StepCache.of`; None: none does.
    """

    prompt: str
    negative_prompt: str | None = None
    height: int = 1024
    width: int = 1024
    num_inference_steps: int = 8
    guidance_scale: float = 0.0
    seed: int = 0
    num_images: int = 1
    latents: Tensor | None = None
    output_type: str = "uint8"
    on_step: Callable[[int, int], None] | None = None
    on_decode: Callable[[int, int], None] | None = None
    cfg_normalization: bool | float = False
    cfg_truncation: float = 1.0
    cache_scope: str = ""
    step_cache: Choice = None

    @property
    def guided(self) -> bool:
        """Whether a negative prompt is stayed away from."""
        return self.guidance_scale > 0

    @property
    def picture(self) -> Picture:
        """What decides how much memory it takes; of a prompt as long as any."""
        cached = StepCache.of(self.step_cache) is not None
        return Picture(self.height, self.width, self.num_images, self.guided, cached)

    def check(self, geometry: Geometry) -> None:
        """Refuse what a model of this geometry can't draw.

        Raises:
            ValueError: a field is out of range; the message names it, its value and what was expected.
        """
        if not self.prompt.strip():
            raise ValueError("prompt is empty, expected some text")
        multiple = geometry.downscale * geometry.patch
        for name, size in (("height", self.height), ("width", self.width)):
            if size < multiple or size % multiple:
                raise ValueError(f"{name} is {size}, expected a multiple of {multiple}")
        for name, count in (("num_inference_steps", self.num_inference_steps), ("num_images", self.num_images)):
            if count < 1:
                raise ValueError(f"{name} is {count}, expected 1 or more")
        if not 0 <= self.guidance_scale < math.inf:
            raise ValueError(f"guidance_scale is {self.guidance_scale}, expected 0 or more")
        if self.output_type not in ("uint8", "latent"):
            raise ValueError(f"output_type is {self.output_type!r}, expected 'uint8' or 'latent'")
        if step_cache := StepCache.of(self.step_cache):
            step_cache.check(self.num_inference_steps, geometry.layers)
        shape = self._shape(geometry)
        if self.latents is not None and self.latents.shape != shape:
            raise ValueError(f"latents have shape {list(self.latents.shape)}, expected {list(shape)}")

    def start(self, geometry: Geometry) -> Tensor:
        """Where the images start, float32 `[num_images, C, H, W]`: the given latents, or noise, drawn on the CPU.

        A seed means the same noise, and so the same picture, on every device.
        """
        if self.latents is not None:
            return self.latents.float()
        images, *rest = self._shape(geometry)
        generators = [torch.Generator().manual_seed(self.seed + index) for index in range(images)]
        return torch.stack([torch.randn(rest, generator=generator) for generator in generators])

    def _shape(self, geometry: Geometry) -> tuple[int, int, int, int]:
        height, width = self.height // geometry.downscale, self.width // geometry.downscale
        return self.num_images, geometry.channels, height, width


@dataclass(eq=False)
class Branch:
    """A row on its way: one image's prompt, or its negative one; what wrappers of the stack know of it."""

    drawing: Drawing
    step_cache: StepCache | None = None  # the drawing's
    step: int = 0  # the one that is taken, counted from 0
    steps_skipped: float = 0.0  # those without the middle layers; of two rows, each counts half of a step
    memory: dict[object, Any] = field(
        default_factory=dict
    )  # from step to step; who keeps something does so under itself


@dataclass(frozen=True)
class Generation:
    """What came of a drawing."""

    images: Tensor  # uint8 [num_images, H, W, 3] on the CPU, or float32 latents [num_images, 16, H/8, W/8]
    timings: dict[str, float]  # seconds of text_encode, denoise and, if run, decode
    peak_vram_bytes: int  # most CUDA memory allocated at once during the call, weights included; 0 on the CPU
    warnings: list[str]  # what the person who wrote the prompt should know
    prompts: int  # 1, or 2 with guidance
    prompts_reused: int  # of them, those whose features were still there
    # One for each image: its steps that skipped layers. With guidance each of the two branches decides for itself, and
    # counts half of a step.
    steps_skipped: list[float] = field(default_factory=list)
