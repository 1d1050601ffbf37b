"""Prompt to pixels: text features, the denoising loop with guidance, and the decoder (arXiv 2511.22699)."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self, cast

import torch
from torch import Tensor

from pipeline.checkpoint.config import CheckpointError, Config
from pipeline.checkpoint.names import transformer_weights
from pipeline.checkpoint.sources import locate
from pipeline.device import find_device
from pipeline.formats.fp8 import Fp8Matrix, check_quantization
from pipeline.model.autoencoder import Autoencoder, Decoder, autoencoder_weights, to_uint8
from pipeline.model.scheduler import Schedule, euler_step, sigmas
from pipeline.model.text_encoder import TextEncoder
from pipeline.model.transformer import Conditioning, Transformer
from pipeline.timeline import Stages, Steps

COMPONENTS = {
    "transformer": ("ZImageTransformer2DModel",),
    "vae": ("AutoencoderKL",),
    "text_encoder": ("Qwen3Model", "Qwen3ForCausalLM"),
    "scheduler": ("FlowMatchEulerDiscreteScheduler",),
}


@dataclass(frozen=True)
class Generation:
    """What one call drew."""

    images: Tensor  # uint8 [num_images, H, W, 3] on the CPU, or float32 latents [num_images, 16, H/8, W/8]
    timings: dict[str, float]  # seconds of text_encode, denoise and, if run, decode
    peak_vram_bytes: int  # most CUDA memory allocated at once during the call, weights included; 0 on the CPU
    warnings: list[str]  # what the person who wrote the prompt should know
    prompts: int  # 1, or 2 with guidance
    prompts_reused: int  # of them, those whose features were still there


class ZImagePipeline:
    """Z-Image on one device. Not thread-safe: one call at a time."""

    def __init__(
        self,
        text_encoder: TextEncoder,
        transformer: Transformer,
        autoencoder: Autoencoder,
        schedule: Schedule,
        device: torch.device,
    ) -> None:
        self.text_encoder = text_encoder
        self.transformer = transformer
        self.autoencoder = autoencoder
        self.schedule = schedule
        self.device = device

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
            quantization: "fp8" for the matrices of transformer and text encoder; None: as they are stored, where the
                device runs that, so that fp8 files stay fp8.

        Raises:
            CheckpointError: something is missing, broken or not supported; one line names file, key and expectation.
            QuantizationError: a quantization that is unknown or that the device cannot run.
            ValueError: `device` is none of this machine.
        """
        device = find_device(device)
        with _current(device):
            return cls._load(path_or_id, device, dtype, vae_path, quantization)

    @classmethod
    def _load(
        cls,
        path_or_id: str | Path,
        device: torch.device,
        dtype: torch.dtype,
        vae_path: str | Path | None,
        quantization: str | None,
    ) -> Self:
        check_quantization(quantization, device, dtype)
        root = locate(path_or_id)
        index = Config(root / "model_index.json")
        index.expect("_class_name", "ZImagePipeline")
        for name, classes in COMPONENTS.items():
            library = "transformers" if name == "text_encoder" else "diffusers"
            index.expect(name, *([library, class_name] for class_name in classes))
        vae = root / "vae"
        if vae_path is not None:
            vae = locate(vae_path)
            vae = vae / "vae" if (vae / "vae").is_dir() else vae

        schedule = Schedule.from_config(Config(root / "scheduler" / "scheduler_config.json"))
        autoencoder = autoencoder_weights(vae).load(device, dtype)
        stored_transformer = transformer_weights(root / "transformer")
        _check_channels(vae, autoencoder, stored_transformer.module)
        fused = device.type == "cuda" and dtype == torch.bfloat16
        if not fused:
            text_encoder = TextEncoder.load(root, device, dtype)
            _check_width(root, text_encoder, stored_transformer.module)
            return cls(text_encoder, stored_transformer.load(device, dtype), autoencoder, schedule, device)

        # They need Triton, which comes with torch's CUDA builds only.
        from pipeline.cuda import text_encoder as fused_encoder
        from pipeline.cuda import transformer as fused_transformer
        from pipeline.cuda import vae as fused_decoder

        # Weights stay in the files' pages until they are converted, fused and perhaps quantised on the GPU, layer by
        # layer: neither RAM nor a small card's memory has room for the whole in float32, or bfloat16.
        cpu, quantize = torch.device("cpu"), quantization == "fp8"
        text_encoder = TextEncoder.load(root, cpu, dtype=None)
        _check_width(root, text_encoder, stored_transformer.module)
        fused_encoder.fuse(text_encoder, device, quantize=quantize)
        plain = stored_transformer.load(cpu, dtype=None)
        transformer = fused_transformer.FusedTransformer(plain, device, quantize=quantize)
        autoencoder.decoder = fused_decoder.FusedDecoder(cast("Decoder", autoencoder.decoder))
        return cls(text_encoder, transformer, autoencoder, schedule, device)

    @property
    def quantization(self) -> str | None:
        """What the weights are in: "fp8", as asked for or as stored, or None."""
        parts = (self.transformer, self.text_encoder.model)
        return "fp8" if any(isinstance(module, Fp8Matrix) for part in parts for module in part.modules()) else None

    def __call__(
        self,
        prompt: str,
        negative_prompt: str | None = None,
        height: int = 1024,
        width: int = 1024,
        num_inference_steps: int = 8,
        guidance_scale: float = 0.0,
        seed: int = 0,
        num_images: int = 1,
        latents: Tensor | None = None,
        output_type: str = "uint8",
        on_step: Callable[[int, int], None] | None = None,
        cfg_normalization: bool | float = False,
        cfg_truncation: float = 1.0,
    ) -> Tensor:
        """The images alone of `generate`, which takes the same arguments."""
        return self.generate(
            prompt,
            negative_prompt,
            height,
            width,
            num_inference_steps,
            guidance_scale,
            seed,
            num_images,
            latents,
            output_type,
            on_step,
            cfg_normalization,
            cfg_truncation,
        ).images

    @torch.inference_mode()
    def generate(
        self,
        prompt: str,
        negative_prompt: str | None = None,
        height: int = 1024,
        width: int = 1024,
        num_inference_steps: int = 8,
        guidance_scale: float = 0.0,
        seed: int = 0,
        num_images: int = 1,
        latents: Tensor | None = None,
        output_type: str = "uint8",
        on_step: Callable[[int, int], None] | None = None,
        cfg_normalization: bool | float = False,
        cfg_truncation: float = 1.0,
    ) -> Generation:
        """Draw images of one prompt.

        Args:
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
            cfg_normalization: limits the norm of the guided prediction to this factor of the unguided one's; True is 1.
            cfg_truncation: guides only while the progress from noise (0) to image (1) is at most this.

        Raises:
            ValueError: an argument is out of range; the message names it, its value and what was expected.
        """
        scale = self.autoencoder.downscale
        shape = (num_images, self.transformer.params.in_channels, height // scale, width // scale)
        self._check_arguments(prompt, height, width, num_inference_steps, guidance_scale, num_images, output_type)
        if latents is not None and latents.shape != shape:
            raise ValueError(f"latents have shape {list(latents.shape)}, expected {list(shape)}")
        with _current(self.device):
            cuda = self.device.type == "cuda"
            if cuda:
                torch.cuda.reset_peak_memory_stats(self.device)
            stages = Stages(self.device)

            reused = self.text_encoder.reused
            text = self.text_encoder.encode(prompt)
            captions, warnings = [text.features], text.warnings
            if guidance_scale > 0:
                negative = self.text_encoder.encode(negative_prompt or "")
                captions.append(negative.features)
                warnings += [f"negative {warning}" for warning in negative.warnings]
            elif negative_prompt:
                warnings.append("the negative prompt had no effect: that takes a guidance_scale above 0")
            if latents is None:
                latents = _noise(shape, seed)  # while the device encodes
            stages.end("text_encode")

            x = self._denoise(
                latents.to(self.device, torch.float32),
                captions,
                sigmas(num_inference_steps, self.schedule.shift),
                guidance_scale,
                float(cfg_normalization),
                cfg_truncation,
                on_step,
            )
            stages.end("denoise")

            if output_type == "uint8":
                # One at a time: the decoder's activations, not its weights, are what fills the memory.
                x = torch.cat([to_uint8(self.autoencoder.decode(latent[None])) for latent in x]).cpu()
                stages.end("decode")
            return Generation(
                images=x.cpu(),
                timings=stages.seconds(),
                peak_vram_bytes=torch.cuda.max_memory_allocated(self.device) if cuda else 0,
                warnings=warnings,
                prompts=len(captions),
                prompts_reused=self.text_encoder.reused - reused,
            )

    def _denoise(
        self,
        x: Tensor,
        captions: list[Tensor],
        levels: Tensor,
        guidance_scale: float,
        norm_limit: float,
        cfg_truncation: float,
        on_step: Callable[[int, int], None] | None,
    ) -> Tensor:
        """From noise `[B, C, H, W]` to latents along noise levels `[steps + 1]`; captions are one, or two to guide."""
        height, width = x.shape[-2:]
        steps = len(levels) - 1
        timesteps = self.schedule.timesteps(levels[:-1])
        guided = [len(captions) == 2 and timestep <= cfg_truncation for timestep in timesteps.tolist()]
        conditionings = {
            both: self.transformer.prepare(captions if both else captions[:1], height, width) for both in set(guided)
        }
        levels, timesteps = levels.to(self.device), timesteps.to(self.device)
        progress = Steps(self.device, steps, on_step)
        for i in range(steps):
            predict = partial(self._guide, scale=guidance_scale, norm_limit=norm_limit) if guided[i] else self._predict
            output = torch.cat([predict(image[None], timesteps[i : i + 1], conditionings[guided[i]]) for image in x])
            x = euler_step(x, -output, levels[i], levels[i + 1])
            progress.queued()
        return x

    def _predict(self, x: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        """What the transformer says of one image `[1, C, H, W]`, in float32."""
        output: Tensor = self.transformer(x, timestep, conditioning)
        return output.float()

    def _guide(
        self, x: Tensor, timestep: Tensor, conditioning: Conditioning, scale: float, norm_limit: float
    ) -> Tensor:
        """Classifier-free guidance, the norm of the prediction held to `norm_limit` times the unguided one."""
        positive, negative = self._predict(x.expand(2, -1, -1, -1), timestep, conditioning).chunk(2)
        output = positive + scale * (positive - negative)
        if norm_limit > 0:
            limit = norm_limit * torch.linalg.vector_norm(positive)
            norm = torch.linalg.vector_norm(output)
            output = torch.where(norm > limit, output * (limit / norm), output)
        return output

    def _check_arguments(
        self,
        prompt: str,
        height: int,
        width: int,
        num_inference_steps: int,
        guidance_scale: float,
        num_images: int,
        output_type: str,
    ) -> None:
        multiple = self.autoencoder.downscale * self.transformer.params.patch_size
        if not prompt.strip():
            raise ValueError("prompt is empty, expected some text")
        for name, size in (("height", height), ("width", width)):
            if size < multiple or size % multiple:
                raise ValueError(f"{name} is {size}, expected a multiple of {multiple}")
        for name, count in (("num_inference_steps", num_inference_steps), ("num_images", num_images)):
            if count < 1:
                raise ValueError(f"{name} is {count}, expected 1 or more")
        if not 0 <= guidance_scale < math.inf:
            raise ValueError(f"guidance_scale is {guidance_scale}, expected 0 or more")
        if output_type not in ("uint8", "latent"):
            raise ValueError(f"output_type is {output_type!r}, expected 'uint8' or 'latent'")


def _current(device: torch.device) -> AbstractContextManager[object]:
    """Make a GPU the current one, where Triton launches, and streams, events and graphs are made."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _noise(shape: tuple[int, int, int, int], seed: int) -> Tensor:
    """Noise on the CPU in float32, image i from `seed + i`: a seed means the same picture on every device."""
    images, *rest = shape
    return torch.stack([torch.randn(rest, generator=torch.Generator().manual_seed(seed + i)) for i in range(images)])


def _check_channels(vae: Path, autoencoder: Autoencoder, transformer: Transformer) -> None:
    latent, channels = autoencoder.params.latent_channels, transformer.params.in_channels
    if latent != channels:
        raise CheckpointError(f"{vae / 'config.json'}: latent_channels is {latent}, expected {channels}")


def _check_width(root: Path, text_encoder: TextEncoder, transformer: Transformer) -> None:
    hidden, width = text_encoder.model.params.hidden_size, transformer.params.caption_dim
    if hidden != width:
        raise CheckpointError(f"{root / 'text_encoder/config.json'}: hidden_size is {hidden}, expected {width}")
