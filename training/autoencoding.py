"""Trains the autoencoder: pictures to latents that a denoiser finds easy, and back.

Noise on the latents, in proportion to their size, is all that shapes them: what it would drown isn't encoded, what
matters gets the most room, and the decoder learns to bear what a denoiser leaves. Some batches are decoded from latents
averaged over 2 × 2 to the picture at half its size, so that latents mean the same at each scale (Kouzelis et al. 2025,
EQ-VAE, arXiv 2502.09509).
"""

import math
import time
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor

from pipeline.model.autoencoder import Autoencoder
from training.optimizer import Average, Keeper, Optimizer, mixed_precision
from training.pictures import ImageSize, Pool, sizes_at_random

# Thousands of pictures. The encoder's convolutions need no more sizes than these.
PICTURES = {(128, 128): 40, (64, 64): 10, (256, 256): 6}
SHARES = {(128, 128): 0.84, (64, 64): 0.08, (256, 256): 0.08}
BATCH_PIXELS = 128 * 128 * 96
HALVED = 0.25  # share of the batches of 128² that are decoded at half their size
NOISE = 0.25  # the most, in units of the latents' deviation
WATCH_EVERY = 200  # steps
MATRIX_RATE = 0.01


def train_autoencoder(autoencoder: Autoencoder, pools: dict[ImageSize, Pool], seconds: float) -> list[dict[str, float]]:
    """Train for so long and set the latents' scale and shift; return the curve."""
    device = next(autoencoder.parameters()).device
    autoencoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = Optimizer(autoencoder, matrix_rate=MATRIX_RATE, rate=1e-3)
    average = Average(autoencoder)
    keeper = Keeper(optimizer, average)
    compiled: tuple[Any, Any] = (autoencoder.encoder, autoencoder.decoder)
    if device.type == "cuda":
        compiled = torch.compile(compiled[0], dynamic=False), torch.compile(compiled[1], dynamic=False)
    total = {"loss": torch.zeros((), device=device), "squared": torch.zeros((), device=device)}
    curve: list[dict[str, float]] = []
    start, counted = time.monotonic(), 0
    for step, size in enumerate(sizes_at_random(SHARES, 0)):
        spent = time.monotonic() - start
        if spent >= seconds:
            break
        optimizer.set_rate(step, spent / seconds)
        data = pools[size].data
        rows = torch.randint(len(data), (BATCH_PIXELS // (size[0] * size[1]),), device=device)
        images = (data[rows].float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)
        # Compiled for the size that most are of; compiling for the others would take longer than it saves.
        encoder, decoder = compiled if size == (128, 128) else (autoencoder.encoder, autoencoder.decoder)
        halved = size == (128, 128) and step % round(1 / HALVED) == 0
        loss, squared = autoencoder_loss(encoder, autoencoder.decoder if halved else decoder, images, halved)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        average.update(step)
        total["loss"] += loss.detach()
        if not halved and size == (128, 128):
            total["squared"] += squared
            counted += 1
        if step % WATCH_EVERY == WATCH_EVERY - 1:
            mean = total["loss"].item() / WATCH_EVERY
            psnr = -10 * math.log10(total["squared"].item() / counted / 4)
            curve.append({"step": step + 1, "seconds": spent, "loss": mean, "psnr": psnr})
            print(f"autoencoder {step + 1}: {spent:.0f} s, loss {mean:.4f}, {psnr:.1f} dB with noise", flush=True)
            if keeper.watch(mean):
                print("set back", flush=True)
            for tensor in total.values():
                tensor.zero_()
            counted = 0
    average.copy_to(autoencoder)
    _measure_scale(autoencoder, pools[128, 128].data[:2000])
    return curve


def autoencoder_loss(encoder: Any, decoder: Any, images: Tensor, halved: bool) -> tuple[Tensor, Tensor]:
    """Return the loss and the mean squared error, for `[B, 3, H, W]` images."""
    with mixed_precision(images.device):
        mean, _ = encoder(images).chunk(2, dim=1)
        if halved:
            mean, images = F.avg_pool2d(mean, 2), F.avg_pool2d(images, 2)
        deviation = mean.detach().float().std()
        level = NOISE * torch.rand(len(mean), 1, 1, 1, device=mean.device) * deviation
        decoded = decoder((mean + level * torch.randn_like(mean)).to(mean.dtype))
    error = decoded.float() - images
    squared = error.square().mean()
    size = mean.float().square().mean().log().square()  # the latents' scale is free; this keeps it near 1
    return error.abs().mean() + 2 * squared + 1e-3 * size, squared.detach()


@torch.no_grad()
def to_latents(autoencoder: Autoencoder, pictures: Tensor) -> Tensor:
    """Latents, bfloat16, of pictures `[N, 3, H, W]`, uint8, a few at a time."""
    count = max(1, 500 * 128 * 128 // (pictures.shape[2] * pictures.shape[3]))
    with mixed_precision(pictures.device):
        parts = [autoencoder.encode(part.float() / 127.5 - 1).bfloat16() for part in torch.split(pictures, count)]
    return torch.cat(parts)


@torch.no_grad()
def _measure_scale(autoencoder: Autoencoder, pictures: Tensor) -> None:
    """Set the scale and shift that give latents mean 0 and variance 1."""
    autoencoder.params = replace(autoencoder.params, scaling_factor=1.0, shift_factor=0.0)
    raw = to_latents(autoencoder, pictures).float()
    autoencoder.params = replace(
        autoencoder.params, scaling_factor=1 / raw.std().item(), shift_factor=raw.mean().item()
    )


@torch.no_grad()
def reconstruction_psnr(autoencoder: Autoencoder, pictures: Tensor) -> float:
    """Peak signal-to-noise ratio, dB, of pictures `[N, 3, H, W]`, uint8, after encoding and decoding."""
    with mixed_precision(pictures.device):
        decoded = autoencoder.decode(autoencoder.encode(pictures.float() / 127.5 - 1)).float()
    return -10 * math.log10((decoded.clamp(-1, 1) - (pictures.float() / 127.5 - 1)).square().mean().item() / 4)
