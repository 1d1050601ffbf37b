"""The VAE's decoder in bands of rows, for pictures that it has no room to decode whole: seamless, and not in tiles.

The middle block, which is small, runs as it is. From there on the network is run layer by layer: each reads the
one before in bands, with the rows beside them that its convolution sees. The statistics of group norms are those of the
whole picture. Between two layers activations lie on the device, or in host memory. All is rounded where the whole
decoder rounds, and on CUDA by its kernels: in bfloat16 any other rounding would grow from layer to layer.
"""

import logging
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn

from pipeline.memory_sizes import BAND_VALUES, Picture
from pipeline.model.autoencoder import Decoder, Resnet, UpBlock, Upsample

if TYPE_CHECKING:
    from pipeline.cuda.vae import FusedDecoder
    from pipeline.recipe import Parts, Recipe


log = logging.getLogger(__name__)


class BandedDecoder(nn.Module):
    """Raw latents `[B, C, H/8, W/8]` to images `[B, 3, H, W]`.

    Args:
        whole: the decoder of what is decoded whole.
        plain: the modules with its weights.
        decoding: how to decode latents of a height and a width, one of `DECODINGS`.
    """

    def __init__(self, whole: "Decoder | FusedDecoder", plain: Decoder, decoding: Callable[[int, int], str]) -> None:
        super().__init__()
        self.whole, self.plain = whole, plain
        self._decoding = decoding

    def forward(self, x: Tensor) -> Tensor:
        """Decode; in bands image by image."""
        how = self._decoding(*x.shape[-2:])
        if how == "whole":
            images: Tensor = self.whole(x)
            return images
        return torch.cat([self._decode(latent[None], how == "host") for latent in x])

    def _decode(self, x: Tensor, on_host: bool) -> Tensor:
        plain = self.plain
        layer = Activation.of(self.whole.middle(x), on_host=on_host)
        for block in cast("list[UpBlock]", list(plain.up_blocks)):
            for resnet in block.resnets:
                layer = _resnet(cast("Resnet", resnet), layer)
            for upsample in block.upsamplers:
                layer = _upsample(cast("Upsample", upsample), layer)
        norm = Norm(plain.conv_norm_out, layer)
        bands = [_convolve(plain.conv_out, layer, norm, *band) for band in layer.bands()]
        return torch.cat(bands, dim=2) + cast("Tensor", plain.conv_out.bias)[:, None, None]


class Activation:
    """What a layer gives for one image, `[1, channels, H, W]` with channels last: on the device, or in host memory."""

    def __init__(self, values: Tensor, device: torch.device) -> None:
        self._values, self._device = values, device

    @classmethod
    def of(cls, x: Tensor, *, on_host: bool) -> "Activation":
        """Keep a tensor of the device."""
        values = x.contiguous(memory_format=torch.channels_last)
        return cls(values.cpu() if on_host else values, x.device)

    def next(self, channels: int, scale: int = 1) -> "Activation":
        """An empty one for the layer behind, `scale` times as high and wide."""
        size, dtype = (1, channels, self.height * scale, self.width * scale), self._values.dtype
        if self._values.device == self._device:
            memory = self._values.new_empty(math.prod(size))
        else:
            memory = _host_memory(math.prod(size), dtype)
        _, _, height, width = size
        return Activation(memory.view(1, height, width, channels).permute(0, 3, 1, 2), self._device)

    @property
    def channels(self) -> int:
        """How many."""
        return self._values.shape[1]

    @property
    def height(self) -> int:
        """How many rows."""
        return self._values.shape[2]

    @property
    def width(self) -> int:
        """Of a row."""
        return self._values.shape[3]

    @property
    def band_values(self) -> int:
        """At most, in a band."""
        return BAND_VALUES[self._values.itemsize]

    def bands(self, channels: int = 0) -> Iterator[tuple[int, int]]:
        """The first row of each band and the one behind its last, for a layer that gives so many channels."""
        rows = max(1, self.band_values // (self.width * max(channels, self.channels)))
        for start in range(0, self.height, rows):
            yield start, min(start + rows, self.height)

    def rows(self, start: int, end: int) -> Tensor:
        """Some rows, on the device."""
        return self._values[:, :, start:end].to(self._device, non_blocking=True)

    @property
    def fused(self) -> bool:
        """Whether the kernels of `pipeline.cuda` take it."""
        return self._device.type == "cuda" and self._values.dtype == torch.bfloat16

    def pixels(self, start: int, end: int) -> Tensor:
        """Some pixels, counted row by row, on the device as a single row."""
        flat = self._values.permute(0, 2, 3, 1).reshape(1, 1, -1, self.channels)[:, :, start:end]
        return flat.to(self._device, non_blocking=True).permute(0, 3, 1, 2)

    def write(self, start: int, band: Tensor) -> None:
        """Set the rows from `start` on."""
        self._values[:, :, start : start + band.shape[2]].copy_(band, non_blocking=True)


class Norm:
    """Group norm (arXiv 1803.08494) by the statistics of a whole image.

    Args:
        module: its weights and groups.
        x: what is normed.
        before: `[channels]`, added to `x` first: the bias of the convolution that gave it.
    """

    def __init__(self, module: nn.GroupNorm, x: Activation, before: Tensor | None = None) -> None:
        shift = torch.zeros_like(module.bias) if before is None else before
        self._affine = (_fused_factors if x.fused else _factors)(module, x, shift)

    def __call__(self, rows: Tensor) -> Tensor:
        """Norm some rows, then SiLU."""
        if rows.is_cuda and rows.dtype == torch.bfloat16:
            from pipeline.cuda.kernels.pixels import scale_channels  # it needs Triton

            return scale_channels(rows.contiguous(memory_format=torch.channels_last), self._affine, silu=True)
        factor, offset = self._affine[:, :, None, None]
        return F.silu(rows.float() * factor + offset).to(rows.dtype)


def _fused_factors(module: nn.GroupNorm, x: Activation, before: Tensor) -> Tensor:
    """Those of the fused decoder, to the bit."""
    from pipeline.cuda.kernels.pixels import channel_sums, group_factors, span

    each = span(x.channels)
    count = max(1, x.band_values // (each * x.channels)) * each
    pixels = x.height * x.width
    parts = [channel_sums(x.pixels(start, min(start + count, pixels))) for start in range(0, pixels, count)]
    sums = torch.cat(parts, dim=1)
    return group_factors(sums, before, module.weight, module.bias, module.num_groups, module.eps, pixels)


def _factors(module: nn.GroupNorm, x: Activation, before: Tensor) -> Tensor:
    """What to multiply channels with and what to add then, float32 `[2, channels]`."""
    weight, bias, shift = module.weight.double(), module.bias.double(), before.double()
    total, squares = torch.zeros_like(weight), torch.zeros_like(weight)
    for start, end in x.bands():
        rows = x.rows(start, end).float()
        total += rows.sum((0, 2, 3))
        squares += rows.square().sum((0, 2, 3))
    pixels = x.height * x.width
    squares += 2 * shift * total + pixels * shift * shift
    total += pixels * shift

    def mean(sums: Tensor) -> Tensor:  # of each channel's group
        groups = sums.view(module.num_groups, -1)
        return (groups.sum(1, keepdim=True) / (pixels * groups.shape[1])).expand_as(groups).flatten()

    center = mean(total)
    factor = weight / ((mean(squares) - center.square()).clamp_min(0) + module.eps).sqrt()
    return torch.stack([factor, bias + (shift - center) * factor]).float()


def _resnet(module: Resnet, x: Activation) -> Activation:
    """A block's two convolutions beside its shortcut; in the place of `x` where that has as many channels."""
    channels = len(module.conv1.weight)
    norm, h = Norm(module.norm1, x), x.next(channels)
    for start, end in x.bands(channels):
        h.write(start, _convolve(module.conv1, x, norm, start, end))
    norm = Norm(module.norm2, h, module.conv1.bias)
    bias = cast("Tensor", module.conv2.bias)
    shortcut = module.conv_shortcut if isinstance(module.conv_shortcut, nn.Conv2d) else None
    y = x.next(channels) if shortcut else x
    if shortcut:
        bias = bias + cast("Tensor", shortcut.bias)
    for start, end in x.bands(channels):
        own = x.rows(start, end)
        own = F.conv2d(own, shortcut.weight) if shortcut else own
        branch = _convolve(module.conv2, h, norm, start, end)
        y.write(start, _add(own, branch, bias))
    return y


def _add(x: Tensor, branch: Tensor, bias: Tensor) -> Tensor:
    if x.is_cuda and x.dtype == torch.bfloat16:
        from pipeline.cuda.kernels.pixels import add_

        return add_(x, branch, bias)
    return (x.float() + branch + bias.float()[:, None, None]).to(branch.dtype)


def _convolve(module: nn.Conv2d, x: Activation, norm: Norm, start: int, end: int) -> Tensor:
    """Rows of the convolution of `x` normed, without its bias: what is behind adds it in float32."""
    before, behind = max(start - 1, 0), min(end + 1, x.height)
    rows = norm(x.rows(before, behind))
    rows = F.pad(rows, (0, 0, int(before == start), int(behind == end)))
    return F.conv2d(rows, module.weight, padding=(0, 1))


def _upsample(module: Upsample, x: Activation) -> Activation:
    """Twice the height and width: each pixel four times, then a convolution."""
    y = x.next(x.channels, scale=2)
    for start, end in y.bands():
        before, behind = max(start - 1, 0), min(end + 1, y.height)
        source = before // 2
        rows = F.interpolate(x.rows(source, -(-behind // 2)), scale_factor=2.0, mode="nearest")
        rows = rows[:, :, before - 2 * source : behind - 2 * source]
        rows = F.pad(rows, (0, 0, int(before == start), int(behind == end)))
        y.write(start, F.conv2d(rows, module.conv.weight, module.conv.bias, padding=(0, 1)))
    return y


def _host_memory(values: int, dtype: torch.dtype) -> Tensor:
    """Memory for so many values: pinned, which torch keeps for the next picture, or not where the host refuses that."""
    try:
        return torch.empty(values, dtype=dtype, pin_memory=True)
    except RuntimeError as error:
        log.warning("the host refuses pinned memory for activations, so they lie in pageable memory: %s", error)
        return torch.empty(values, dtype=dtype)


def wrap(parts: "Parts", _recipe: "Recipe") -> None:
    """Put it around the decoder where a budget is set."""
    plan, autoencoder = parts.plan, parts.autoencoder
    if plan is None or plan.budget_bytes is None:
        return
    scale = autoencoder.downscale
    plain = next(module for module in autoencoder.decoder.modules() if isinstance(module, Decoder))

    def decoding(height: int, width: int) -> str:
        return plan.decoding(Picture(height * scale, width * scale))

    whole = cast("Decoder | FusedDecoder", autoencoder.decoder)
    autoencoder.decoder = BandedDecoder(whole, plain, decoding)
