"""Kernels over pixels with channels last: group norm with SiLU behind it, and the sum of two branches."""

import torch
import triton
import triton.language as tl
from torch import Tensor

ELEMENTS = 8192  # a program's share at a time
LOOPS = 8  # shares that a program sums up
SIZES = ["pixels", "programs"]  # arguments that no variant is compiled for: each image size would want its own


def group_norm(
    x: Tensor, before: Tensor | None, weight: Tensor, bias: Tensor, groups: int, eps: float, *, silu: bool
) -> Tensor:
    """Group norm (arXiv 1803.08494) of one image, then SiLU if asked for.

    Args:
        x: bfloat16 `[1, channels, H, W]` in channels-last memory; at most 8192 channels.
        before: `[channels]`, added to `x` first: the bias of the convolution that gave it.
        weight: `[channels]`.
        bias: `[channels]`.
        groups: of channels that are normed together.
        eps: added to the variance.
        silu: whether SiLU follows.

    Returns:
        A tensor like `x`.
    """
    affine = group_factors(channel_sums(x), before, weight, bias, groups, eps, x.shape[2] * x.shape[3])
    return scale_channels(x, affine, silu=silu)


def span(channels: int) -> int:
    """How many pixels `channel_sums` sums up together: sums of parts that begin at multiples are those of the whole."""
    pixels: int = ELEMENTS // triton.next_power_of_2(channels) * LOOPS
    return pixels


def channel_sums(x: Tensor) -> Tensor:
    """Sums and sums of squares, float32 `[2, spans, channels]`, of the pixels of `x`, which is as in `group_norm`."""
    _, channels, height, width = x.shape
    pixels = height * width
    block = triton.next_power_of_2(channels)
    programs = triton.cdiv(pixels, span(channels))
    sums = x.new_empty(2, programs, channels, dtype=torch.float32)
    _sums[(programs,)](
        x, sums, pixels, channels, programs, BLOCK=block, PIXELS=ELEMENTS // block, LOOPS=LOOPS, num_warps=8
    )
    return sums


def group_factors(
    sums: Tensor, before: Tensor | None, weight: Tensor, bias: Tensor, groups: int, eps: float, pixels: int
) -> Tensor:
    """What to multiply channels with and what to add then, float32 `[2, channels]`, by the sums of so many pixels."""
    _, programs, channels = sums.shape
    affine = sums.new_empty(2, channels)
    _factors[(groups,)](
        sums, bias if before is None else before, weight, bias, affine, pixels, channels, channels // groups, programs,
        eps, BLOCK=triton.next_power_of_2(channels // groups), ROWS=128, BEFORE=before is not None,
    )  # fmt: skip
    return affine


def scale_channels(x: Tensor, affine: Tensor, *, silu: bool) -> Tensor:
    """Multiply and add by channel, then SiLU if asked for; `x` is as in `group_norm`."""
    _, channels, height, width = x.shape
    block = triton.next_power_of_2(channels)
    share = ELEMENTS // block
    y = torch.empty_like(x)
    _affine[(triton.cdiv(height * width, share),)](
        x, y, affine, height * width, channels, BLOCK=block, PIXELS=share, SILU=silu, num_warps=8
    )
    return y


def add_(x: Tensor, branch: Tensor, bias: Tensor) -> Tensor:
    """Add `x` and `bias` `[channels]` to `branch` in place; both bfloat16 `[1, channels, H, W]`, channels last."""
    _, channels, height, width = x.shape
    block = triton.next_power_of_2(channels)
    share = ELEMENTS // block
    _add[(triton.cdiv(height * width, share),)](
        x, branch, bias, height * width, channels, BLOCK=block, PIXELS=share, num_warps=8
    )
    return branch


@triton.jit(do_not_specialize=SIZES)
def _sums(
    x, sums, pixels, channels, programs, BLOCK: tl.constexpr, PIXELS: tl.constexpr, LOOPS: tl.constexpr
):  # fmt: skip
    """Sums and sums of squares of each channel over a program's pixels."""
    program = tl.program_id(0)
    channel = tl.arange(0, BLOCK)
    total = tl.zeros((PIXELS, BLOCK), tl.float32)
    squares = tl.zeros((PIXELS, BLOCK), tl.float32)
    for i in range(LOOPS):
        pixel = (program * LOOPS + i).to(tl.int64) * PIXELS + tl.arange(0, PIXELS)
        places = pixel[:, None] * channels + channel[None, :]
        inside = (pixel[:, None] < pixels) & (channel[None, :] < channels)
        v = tl.load(x + places, mask=inside, other=0.0).to(tl.float32)
        total += v
        squares += v * v
    tl.store(sums + program * channels + channel, tl.sum(total, 0), mask=channel < channels)
    tl.store(sums + (programs + program) * channels + channel, tl.sum(squares, 0), mask=channel < channels)


@triton.jit(do_not_specialize=SIZES)
def _factors(
    sums, before, weight, bias, affine, pixels, channels, width, programs, eps,
    BLOCK: tl.constexpr, ROWS: tl.constexpr, BEFORE: tl.constexpr,
):  # fmt: skip
    """What to multiply each channel of one group with, and what to add to it then.

    In float64, because the variance is a difference of nearly equal sums when the mean is large.
    """
    column = tl.arange(0, BLOCK)
    inside = column < width
    channel = tl.program_id(0) * width + column
    total = tl.zeros((BLOCK,), tl.float64)
    squares = tl.zeros((BLOCK,), tl.float64)
    for start in range(0, programs, ROWS):
        row = start + tl.arange(0, ROWS)[:, None]
        mask = (row < programs) & inside[None, :]
        total += tl.sum(tl.load(sums + row * channels + channel[None, :], mask=mask, other=0.0).to(tl.float64), 0)
        row += programs
        squares += tl.sum(tl.load(sums + row * channels + channel[None, :], mask=mask, other=0.0).to(tl.float64), 0)
    shift = tl.zeros((BLOCK,), tl.float64)
    if BEFORE:
        shift += tl.load(before + channel, mask=inside, other=0.0).to(tl.float64)
    squares += 2 * shift * total + pixels * shift * shift
    total += pixels * shift
    count = (pixels * width).to(tl.float64)
    mean = tl.sum(total, 0) / count
    variance = tl.maximum(tl.sum(squares, 0) / count - mean * mean, 0.0)
    factor = tl.load(weight + channel, mask=inside, other=0.0).to(tl.float64) / tl.sqrt(variance + eps)
    offset = tl.load(bias + channel, mask=inside, other=0.0).to(tl.float64) + (shift - mean) * factor
    tl.store(affine + channel, factor.to(tl.float32), mask=inside)
    tl.store(affine + channels + channel, offset.to(tl.float32), mask=inside)


@triton.jit(do_not_specialize=SIZES)
def _affine(
    x, y, affine, pixels, channels, BLOCK: tl.constexpr, PIXELS: tl.constexpr, SILU: tl.constexpr
):  # fmt: skip
    channel = tl.arange(0, BLOCK)
    pixel = tl.program_id(0).to(tl.int64) * PIXELS + tl.arange(0, PIXELS)
    places = pixel[:, None] * channels + channel[None, :]
    inside = (pixel[:, None] < pixels) & (channel[None, :] < channels)
    v = tl.load(x + places, mask=inside, other=0.0).to(tl.float32)
    v *= tl.load(affine + channel, mask=channel < channels, other=0.0)[None, :]
    v += tl.load(affine + channels + channel, mask=channel < channels, other=0.0)[None, :]
    if SILU:
        v *= tl.sigmoid(v)
    tl.store(y + places, v.to(y.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=SIZES)
def _add(x, branch, bias, pixels, channels, BLOCK: tl.constexpr, PIXELS: tl.constexpr):
    channel = tl.arange(0, BLOCK)
    pixel = tl.program_id(0).to(tl.int64) * PIXELS + tl.arange(0, PIXELS)
    places = pixel[:, None] * channels + channel[None, :]
    inside = (pixel[:, None] < pixels) & (channel[None, :] < channels)
    v = tl.load(x + places, mask=inside, other=0.0).to(tl.float32)
    v += tl.load(branch + places, mask=inside, other=0.0).to(tl.float32)
    v += tl.load(bias + channel, mask=channel < channels, other=0.0).to(tl.float32)[None, :]
    tl.store(branch + places, v.to(branch.dtype.element_ty), mask=inside)
