"""Prompt to pixels: text features, the denoising loop, and the decoder (arXiv 2511.22699)."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from pipeline.denoise import Guidance, begin, denoise, trajectory
from pipeline.device import current, find_device
from pipeline.drawing import Drawing, Generation
from pipeline.formats.number_format import Matrix
from pipeline.formats.registry import find
from pipeline.model.autoencoder import Autoencoder, to_uint8
from pipeline.model.scheduler import Schedule
from pipeline.model.text_encoder import TextEncoder
from pipeline.model.transformer import Transformer
from pipeline.recipe import Recipe
from pipeline.timeline import Stages, Steps


class ZImagePipeline:
    """Z-Image on one device. Not thread-safe: one call at a time.

    Args:
        text_encoder: first part at work.
        transformer: the second.
        autoencoder: the third.
        schedule: of the noise.
        device: where they are.
        presence: by part, `text_encoder`, `transformer` or `vae`: entered while its weights have to be on the device;
            None: they always are.
    """

    def __init__(
        self,
        text_encoder: TextEncoder,
        transformer: Transformer,
        autoencoder: Autoencoder,
        schedule: Schedule,
        device: torch.device,
        presence: Mapping[str, AbstractContextManager[object]] | None = None,
    ) -> None:
        self.text_encoder = text_encoder
        self.transformer = transformer
        self.autoencoder = autoencoder
        self.schedule = schedule
        self.device = device
        self._presence = presence or {}

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | Path,
        device: str | torch.device = "cuda",
        dtype: torch.dtype = torch.bfloat16,
        vae_path: str | Path | None = None,
        quantization: str | None = None,
    ) -> Self:
        """Load a checkpoint in diffusers' layout.

        Args:
            path_or_id: a directory, a hub id such as `Tongyi-MAI/Z-Image-Turbo`, or `s3://bucket/prefix`.
            device: where the weights go and the work is done.
            dtype: of weights and activations; latents and schedule are float32 always.
            vae_path: a directory with another VAE, or with another checkpoint whose `vae/` to take.
            quantization: the number format of the matrices of transformer and text encoder, "fp8"; None: as they are
                stored, where the device runs that, so that fp8 files stay fp8.

        Raises:
            CheckpointError: something is missing, broken or not supported; one line names file, key and expectation.
            QuantizationError: a quantization that is unknown or that the device cannot run.
            ValueError: `device` is none of this machine.
        """
        return cls(*Recipe(path_or_id, find_device(device), dtype, vae_path, find(quantization)).build())

    @property
    def quantization(self) -> str | None:
        """What the weights are in: the name of a number format, as asked for or as stored, or None."""
        modules = [*self.transformer.modules(), *self.text_encoder.model.modules()]
        return next((m.format_name for m in modules if isinstance(m, Matrix) and m.format_name), None)

    def __call__(self, prompt: str, *arguments: Any, **options: Any) -> Tensor:
        """The images alone of what `generate` makes of a `Drawing` with these arguments."""
        return self.generate(Drawing(prompt, *arguments, **options)).images

    @torch.inference_mode()
    def generate(self, drawing: Drawing) -> Generation:
        """Draw images of one prompt.

        Raises:
            ValueError: a field is out of range; the message names it, its value and what was expected.
        """
        channels, downscale = self.transformer.params.in_channels, self.autoencoder.downscale
        drawing.check(channels, downscale, self.transformer.params.patch_size)
        guidance = Guidance(drawing.guidance_scale, float(drawing.cfg_normalization), drawing.cfg_truncation)
        with current(self.device):
            cuda = self.device.type == "cuda"
            if cuda:
                torch.cuda.reset_peak_memory_stats(self.device)
            stages = Stages(self.device)
            reused = self.text_encoder.reused
            with self._stage("text_encoder", "text_encode", stages):
                captions, warnings = self._encode(drawing)
                noise = drawing.start(channels, downscale)  # while the device encodes
            with self._stage("transformer", "denoise", stages):
                steps = trajectory(self.schedule, drawing.num_inference_steps, guidance, self.device)
                images = begin(self.transformer, noise.to(self.device), captions, guidance, steps)
                denoise(self.transformer, images, steps, Steps(self.device, len(steps), drawing.on_step))
                x = torch.cat([image.latents for image in images])
            if drawing.output_type == "uint8":
                with self._stage("vae", "decode", stages):
                    # One at a time: the decoder's activations, not its weights, are what fills the memory.
                    x = torch.cat([to_uint8(self.autoencoder.decode(latent[None])) for latent in x]).cpu()
            return Generation(
                images=x.cpu(),
                timings=stages.seconds(),
                peak_vram_bytes=torch.cuda.max_memory_allocated(self.device) if cuda else 0,
                warnings=warnings,
                prompts=len(captions),
                prompts_reused=self.text_encoder.reused - reused,
            )

    def _encode(self, drawing: Drawing) -> tuple[list[Tensor], list[str]]:
        """Features of the prompt and, with guidance, of the negative one; and what to tell of them."""
        text = self.text_encoder.encode(drawing.prompt)
        if drawing.guided:
            negative = self.text_encoder.encode(drawing.negative_prompt or "")
            told = [f"negative {warning}" for warning in negative.warnings]
            return [text.features, negative.features], [*text.warnings, *told]
        unheard = ["the negative prompt had no effect: that takes a guidance_scale above 0"]
        return [text.features], [*text.warnings, *(unheard if drawing.negative_prompt else [])]

    @contextmanager
    def _stage(self, part: str, name: str, stages: Stages) -> Iterator[None]:
        """A stage of a call: the one place where a part's weights come and go, and where its time is taken."""
        with self._presence.get(part, nullcontext()):
            yield
        stages.end(name)
