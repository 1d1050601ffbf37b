"""FLUX's VAE, the autoencoder of Z-Image: pixels to latents of an eighth of their size, and back.

A convolutional autoencoder with a KL prior (arXiv 2112.10752), here with 16 latent channels. Parameters are named as in
diffusers' AutoencoderKL. Images are `[B, 3, H, W]` in [-1, 1]; latents `[B, C, H/8, W/8]` are scaled and shifted to
about unit variance, as the transformer sees them.
"""

# ruff: noqa: D102, RET504 - a class says what its forward does; assigned to x, a module's answer has a type for mypy

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn

NORM_EPS = 1e-6


@dataclass(frozen=True)
class AutoencoderParams:
    """The shape of the network."""

    in_channels: int  # of an image: 3
    latent_channels: int  # 16
    block_channels: tuple[int, ...]  # (128, 256, 512, 512); each level but the last halves height and width
    layers_per_block: int  # 2
    norm_groups: int  # 32
    scaling_factor: float  # 0.3611
    shift_factor: float  # 0.1159


class Autoencoder(nn.Module):
    """Encoder and decoder, with the affine map between raw and pipeline latents."""

    def __init__(self, params: AutoencoderParams) -> None:
        super().__init__()
        self.params = params
        self.downscale = 2 ** (len(params.block_channels) - 1)  # pixels on a side of one latent pixel: 8
        self.encoder = Encoder(params)
        self.decoder: nn.Module = Decoder(params)

    def moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance, each `[B, C, H/8, W/8]`, of the raw latents of images `[B, 3, H, W]` in [-1, 1]."""
        mean, logvar = self.encoder(images.to(self.encoder.conv_in.weight.dtype)).chunk(2, dim=1)
        return mean, logvar.clamp(-30, 20)

    def encode(self, images: Tensor) -> Tensor:
        """The most probable pipeline latents `[B, C, H/8, W/8]`, float32, of images `[B, 3, H, W]` in [-1, 1]."""
        mean, _ = self.moments(images)
        return (mean.float() - self.params.shift_factor) * self.params.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """Images `[B, 3, H, W]` of about [-1, 1], unclamped, from pipeline latents `[B, C, H/8, W/8]`."""
        raw = latents.float() / self.params.scaling_factor + self.params.shift_factor
        images: Tensor = self.decoder(raw.to(next(self.decoder.parameters()).dtype))
        return images


class Encoder(nn.Module):
    """Images `[B, 3, H, W]` to moments `[B, 2 · C, H/8, W/8]`."""

    def __init__(self, params: AutoencoderParams) -> None:
        super().__init__()
        channels, groups = params.block_channels, params.norm_groups
        last = len(channels) - 1
        self.conv_in = nn.Conv2d(params.in_channels, channels[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            DownBlock(before, after, params.layers_per_block, groups, downsample=level < last)
            for level, (before, after) in enumerate(zip(channels[:1] + channels, channels, strict=False))
        )
        self.mid_block = MidBlock(channels[-1], groups)
        self.conv_norm_out = nn.GroupNorm(groups, channels[-1], eps=NORM_EPS)
        self.conv_out = nn.Conv2d(channels[-1], 2 * params.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        x = self.mid_block(x)
        x = self.conv_out(F.silu(self.conv_norm_out(x)))
        return x


class Decoder(nn.Module):
    """Raw latents `[B, C, H/8, W/8]` to images `[B, 3, H, W]`."""

    def __init__(self, params: AutoencoderParams) -> None:
        super().__init__()
        channels, groups = params.block_channels[::-1], params.norm_groups
        last = len(channels) - 1
        self.conv_in = nn.Conv2d(params.latent_channels, channels[0], 3, padding=1)
        self.mid_block = MidBlock(channels[0], groups)
        self.up_blocks = nn.ModuleList(
            UpBlock(before, after, params.layers_per_block + 1, groups, upsample=level < last)
            for level, (before, after) in enumerate(zip(channels[:1] + channels, channels, strict=False))
        )
        self.conv_norm_out = nn.GroupNorm(groups, channels[-1], eps=NORM_EPS)
        self.conv_out = nn.Conv2d(channels[-1], params.in_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.middle(x)
        for block in self.up_blocks:
            x = block(x)
        x = self.conv_out(F.silu(self.conv_norm_out(x)))
        return x

    def middle(self, x: Tensor) -> Tensor:
        """What the middle block gives, `[B, channels, H/8, W/8]`."""
        x = self.mid_block(self.conv_in(x))
        return x


class DownBlock(nn.Module):
    """One level of the encoder; all but the last end in half the height and width."""

    def __init__(self, before: int, after: int, layers: int, groups: int, *, downsample: bool) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(Resnet(before if i == 0 else after, after, groups) for i in range(layers))
        self.downsamplers = nn.ModuleList([Downsample(after)] if downsample else [])

    def forward(self, x: Tensor) -> Tensor:
        for layer in (*self.resnets, *self.downsamplers):
            x = layer(x)
        return x


class UpBlock(nn.Module):
    """One level of the decoder; all but the last end in twice the height and width."""

    def __init__(self, before: int, after: int, layers: int, groups: int, *, upsample: bool) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(Resnet(before if i == 0 else after, after, groups) for i in range(layers))
        self.upsamplers = nn.ModuleList([Upsample(after)] if upsample else [])

    def forward(self, x: Tensor) -> Tensor:
        for layer in (*self.resnets, *self.upsamplers):
            x = layer(x)
        return x


class MidBlock(nn.Module):
    """The lowest level, the only one with attention."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(Resnet(channels, channels, groups) for _ in range(2))
        self.attentions = nn.ModuleList([PixelAttention(channels, groups)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.resnets[0](x)
        x = self.attentions[0](x)
        x = self.resnets[1](x)
        return x


class Resnet(nn.Module):
    """Two convolutions beside a shortcut: `[B, before, H, W]` to `[B, after, H, W]`."""

    def __init__(self, before: int, after: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, before, eps=NORM_EPS)
        self.conv1 = nn.Conv2d(before, after, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, after, eps=NORM_EPS)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1)
        self.conv_shortcut = nn.Identity() if before == after else nn.Conv2d(before, after, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        x = self.conv_shortcut(x) + h
        return x


class PixelAttention(nn.Module):
    """Self-attention with one head over all pixels of `[B, channels, H, W]`."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, channels, eps=NORM_EPS)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.Sequential(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        h = self.group_norm(x).flatten(2).transpose(1, 2)[:, None]  # [B, 1, H · W, channels]
        h = F.scaled_dot_product_attention(self.to_q(h), self.to_k(h), self.to_v(h))
        x = x + self.to_out(h).squeeze(1).transpose(1, 2).reshape(x.shape)
        return x


class Downsample(nn.Module):
    """Half the height and width; padded at the right and at the bottom only, as the VAE was trained."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(F.pad(x, (0, 1, 0, 1)))
        return x


class Upsample(nn.Module):
    """Twice the height and width: each pixel four times, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return x


def to_uint8(images: Tensor) -> Tensor:
    """Images `[B, 3, H, W]` in [-1, 1] to pixels `[B, H, W, 3]`, uint8."""
    return ((images.float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
