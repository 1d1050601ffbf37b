"""The VAE's decoder for CUDA: channels last, group norm and SiLU in one kernel, attention as matrix products.

The same function as `pipeline.model.autoencoder.Decoder`, from the same weights. Nothing is compiled for a size, so any
size is quick the first time.
"""

from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn

from pipeline.cuda.kernels.pixels import add_, group_norm
from pipeline.memory_sizes import ATTENTION_ROWS
from pipeline.model.autoencoder import Decoder, PixelAttention, Resnet, UpBlock


class FusedDecoder(nn.Module):
    """Raw latents `[B, C, H/8, W/8]` to images `[B, 3, H, W]`."""

    def __init__(self, plain: Decoder) -> None:
        super().__init__()
        self.plain = plain.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Tensor:
        """Decode image by image: the kernels norm one at a time."""
        return torch.cat([self._decode(latent[None]) for latent in x])

    def _decode(self, x: Tensor) -> Tensor:
        plain, x = self.plain, self.middle(x)
        for block in plain.up_blocks:
            x = _up(cast("UpBlock", block), x)
        images: Tensor = plain.conv_out(_norm(plain.conv_norm_out, x, silu=True))
        return images

    def middle(self, x: Tensor) -> Tensor:
        """What the middle block gives, `[1, channels, H/8, W/8]`, for one image's latents."""
        plain = self.plain
        x = plain.conv_in(x.contiguous(memory_format=torch.channels_last))
        first, second = plain.mid_block.resnets
        x = _resnet(cast("Resnet", first), x)
        x = _attention(cast("PixelAttention", plain.mid_block.attentions[0]), x)
        return _resnet(cast("Resnet", second), x)


def _up(block: UpBlock, x: Tensor) -> Tensor:
    for resnet in block.resnets:
        x = _resnet(cast("Resnet", resnet), x)
    for upsample in block.upsamplers:
        x = upsample(x)
    return x


def _norm(module: nn.GroupNorm, x: Tensor, before: Tensor | None = None, *, silu: bool) -> Tensor:
    return group_norm(x, before, module.weight, module.bias, module.num_groups, module.eps, silu=silu)


def _resnet(module: Resnet, x: Tensor) -> Tensor:
    """The biases of both convolutions are added by the kernel behind each: alone they would take a pass over memory."""
    h = F.conv2d(_norm(module.norm1, x, silu=True), module.conv1.weight, padding=1)
    h = F.conv2d(_norm(module.norm2, h, module.conv1.bias, silu=True), module.conv2.weight, padding=1)
    bias = cast("Tensor", module.conv2.bias)
    if isinstance(module.conv_shortcut, nn.Conv2d):
        x = F.conv2d(x, module.conv_shortcut.weight)
        bias = bias + cast("Tensor", module.conv_shortcut.bias)
    return add_(x, h, bias)


def _attention(module: PixelAttention, x: Tensor) -> Tensor:
    """Scores in float32, some queries at a time: SDPA's fast kernels do not take heads of 512 channels."""
    h = _norm(module.group_norm, x, silu=False).permute(0, 2, 3, 1).flatten(0, 2)  # [H · W, channels]
    q, k, v = module.to_q(h) * h.shape[-1] ** -0.5, module.to_k(h), module.to_v(h)
    h = module.to_out(torch.cat([_attend(queries, k, v) for queries in q.split(ATTENTION_ROWS)]))
    return x + cast("Tensor", h).view(1, *x.shape[2:], -1).permute(0, 3, 1, 2)


def _attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """A function of its own, so that the scores of some queries are gone before those of the next are made."""
    weights = torch.mm(queries, keys.T, out_dtype=torch.float32).softmax(-1)
    return weights.to(values.dtype) @ values
