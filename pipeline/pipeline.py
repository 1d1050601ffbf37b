"""Prompt to pixels: text features, the denoising loop, and the decoder (arXiv 2511.22699)."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from itertools import chain
from pathlib import Path
from typing import Concatenate, ParamSpec, Self

import torch
from torch import Tensor

from pipeline.denoise import Image, denoise, images_of, trajectory
from pipeline.device import current, find_device
from pipeline.drawing import Drawing, Generation, Geometry
from pipeline.formats.number_format import Matrix
from pipeline.formats.registry import find
from pipeline.memory_plan import check_residency, parse_budget
from pipeline.model.autoencoder import to_uint8
from pipeline.model.text_encoder import TextFeatures
from pipeline.recipe import Parts, Recipe
from pipeline.timeline import PeakMemory, Progress, Stages

Asked = ParamSpec("Asked")


def _images_of(ask: Callable[Asked, Drawing]) -> Callable[Concatenate["ZImagePipeline", Asked], Tensor]:
    """Make the method that takes a drawing's fields as arguments, under their own names and types."""

    def call(self: "ZImagePipeline", /, *arguments: Asked.args, **options: Asked.kwargs) -> Tensor:
        """The images alone of what `generate` makes of a `Drawing` of these fields."""
        return self.generate(ask(*arguments, **options)).images

    own = next(iter(inspect.signature(call).parameters.values()))
    fields = inspect.signature(ask).parameters.values()
    call.__signature__ = inspect.Signature([own, *fields], return_annotation=Tensor)  # type: ignore[attr-defined]
    return call


class ZImagePipeline:
    """Z-Image on one device. Not thread-safe: one call at a time."""

    def __init__(self, parts: Parts) -> None:
        self.text_encoder, self.transformer, self.autoencoder = parts.text_encoder, parts.transformer, parts.autoencoder
        self.schedule, self.device = parts.schedule, parts.device
        self._encode_prompt, self._presence = parts.encode, parts.presence
        self.plan = parts.plan  # which weights stay, come and go

    __call__ = _images_of(Drawing)

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | Path,
        device: str | torch.device = "cuda",
        dtype: torch.dtype = torch.bfloat16,
        vae_path: str | Path | None = None,
        quantization: str | None = None,
        vram_budget: str | int | None = None,
        residency: Mapping[str, str] | None = None,
    ) -> Self:
        """Load a checkpoint in diffusers' layout.

        Args:
            path_or_id: a directory, a hub id such as `Tongyi-MAI/Z-Image-Turbo`, or `s3://bucket/prefix`.
            device: where the weights go and the work is done.
            dtype: of weights and activations; latents and schedule are float32 always.
            vae_path: a directory with another VAE, or with another checkpoint whose `vae/` to take.
            quantization: the number format of the matrices of transformer and text encoder, "fp8"; None: as they are
                stored, where the device runs that, so that fp8 files stay fp8.
            vram_budget: what tensors may take on the device, as bytes or such as "8GiB": which weights stay there, and
                which come and go, is decided by it (`pipeline.memory_plan`). None: all stay, if there is room for them.
            residency: settles it for some of the parts: "resident", "whole" or "layers" for text_encoder, transformer
                and vae (which has no "layers"). Without a budget none of the layers stays.

        Raises:
            CheckpointError: something is missing, broken or not supported; one line names file, key and expectation.
            QuantizationError: a quantization that is unknown or that the device cannot run.
            UnfitGpuError: torch can use no GPU here, or in bfloat16 not this one: too old a driver, too old a card.
            BudgetError: nothing can be drawn within the budget; it tells the least with which something can.
            ValueError: `device` is none of this machine; a budget or a residency makes no sense.
        """
        budget = parse_budget(vram_budget) if isinstance(vram_budget, str) else vram_budget
        chosen = check_residency(residency or {})
        recipe = Recipe(path_or_id, find_device(device), dtype, vae_path, find(quantization), budget, chosen)
        return cls(recipe.build())

    @property
    def quantization(self) -> str | None:
        """What the weights are in: the name of a number format, as asked for or as stored, or None."""
        return next((matrix.format_name for matrix in self._quantized_matrices()), None)

    @property
    def product(self) -> str | None:
        """Which of the number format's products multiplies them on this device, or None."""
        return next((matrix.product for matrix in self._quantized_matrices()), None)

    def _quantized_matrices(self) -> Iterator[Matrix]:
        modules = chain(self.transformer.modules(), self.text_encoder.model.modules())
        return (module for module in modules if isinstance(module, Matrix) and module.format_name)

    @torch.inference_mode()
    def generate(self, drawing: Drawing, stages: Stages | None = None) -> Generation:
        """Draw images of one prompt.

        Args:
            drawing: what to draw.
            stages: of this device; they tell what was done also when this raises. None: those of the result suffice.

        Raises:
            ValueError: a field is out of range; the message names it, its value and what was expected.
        """
        geometry = self._geometry()
        drawing.check(geometry)
        if self.plan:
            self.plan.check(drawing.picture)
        with current(self.device):
            peak, stages = PeakMemory(self.device), stages or Stages(self.device)
            with self._stage("text_encoder", "text_encode", stages):
                texts = self._encode(drawing)
                noise = drawing.start(geometry)  # while the device encodes
            with self._stage("transformer", "denoise", stages):
                images = self._denoise(drawing, noise.to(self.device), [text.features for text in texts])
                x = torch.cat([image.latents for image in images])
                steps_skipped = [image.steps_skipped for image in images]
                del images  # what they remember of their steps would fill the memory while they are decoded
            if drawing.output_type == "uint8":
                with self._stage("vae", "decode", stages):
                    x = self._decode(drawing, x)
            return Generation(
                images=x.cpu(),
                timings=stages.seconds(),
                peak_vram_bytes=peak.bytes(),
                warnings=_warnings(drawing, texts),
                prompts=len(texts),
                prompts_reused=sum(text.reused for text in texts),
                steps_skipped=steps_skipped,
            )

    def _geometry(self) -> Geometry:
        params = self.transformer.params
        return Geometry(params.in_channels, self.autoencoder.downscale, params.patch_size, params.num_layers)

    def _encode(self, drawing: Drawing) -> list[TextFeatures]:
        """Features of the prompt and, with guidance, of the negative one."""
        prompts = [drawing.prompt, *([drawing.negative_prompt or ""] if drawing.guided else [])]
        return [self._encode_prompt(prompt, drawing.cache_scope) for prompt in prompts]

    def _denoise(self, drawing: Drawing, noise: Tensor, captions: list[Tensor]) -> list[Image]:
        """From noise, float32 `[num_images, C, H, W]` on the device, to the images' latents."""
        steps = trajectory(self.schedule, drawing, self.device)
        images = images_of(drawing, noise, captions, self.transformer, steps)
        denoise(self.transformer, images, steps, Progress(self.device, len(steps), drawing.on_step))
        return images

    def _decode(self, drawing: Drawing, latents: Tensor) -> Tensor:
        """From latents to pixels, one at a time: the decoder's activations, not its weights, fill the memory."""
        begun = Progress(self.device, len(latents), drawing.on_decode)
        pixels = []
        for latent in latents:
            begun.queued()
            pixels.append(to_uint8(self.autoencoder.decode(latent[None])))
        return torch.cat(pixels).cpu()

    @contextmanager
    def _stage(self, part: str, name: str, stages: Stages) -> Iterator[None]:
        """A stage of a call: the one place where a part's weights come and go, and where its time is taken."""
        try:
            with self._presence.get(part, nullcontext)():
                yield
        finally:
            stages.end(name)


def _warnings(drawing: Drawing, texts: list[TextFeatures]) -> list[str]:
    """What to tell of the prompts."""
    prompt, *negatives = texts
    warnings = [*prompt.warnings, *(f"negative {warning}" for text in negatives for warning in text.warnings)]
    if drawing.negative_prompt and not drawing.guided:
        warnings.append("the negative prompt has no effect: that takes a guidance_scale above 0")
    return warnings
