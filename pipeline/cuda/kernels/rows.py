"""Kernels over rows of tokens: norms with modulation and gates, SwiGLU, and rows quantised to fp8 on the way out."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from pipeline.formats.fp8 import FP8, Rows

FP8_MAX = tl.constexpr(448.0)  # the largest e4m3 number (arXiv 2209.05433)
TINY = tl.constexpr(1e-12)  # keeps the scale of a row of zeros above zero


def norm(x: Tensor, weight: Tensor, scale: Tensor, eps: float, *, quantize: bool) -> Tensor | Rows:
    """RMSNorm (arXiv 1910.07467) of `x` times `scale`.

    Args:
        x: bfloat16 `[B, tokens, width]`, contiguous.
        weight: of the norm, `[width]`.
        scale: float32 `[B or 1, width]`, one row for each image or one for all.
        eps: of the norm.
        quantize: return `Rows` of `B · tokens` rows instead of a bfloat16 tensor of x's shape.
    """
    h, scales = _output(x, x.shape[-1], quantize)
    _gate_norm[_grid(x)](
        x, x, x, x, scale, weight, scale, h, scales, x.shape[1], x.shape[2], 0, _stride(scale), eps,
        BLOCK=triton.next_power_of_2(x.shape[2]), GATE=False, NORM=True, QUANTIZE=quantize, num_warps=8,
    )  # fmt: skip
    return Rows(h, scales) if quantize else h


def gate_norm(
    x: Tensor,
    branch: Tensor,
    branch_weight: Tensor,
    gate: Tensor,
    weight: Tensor,
    scale: Tensor,
    eps: float,
    *,
    quantize: bool,
) -> Tensor | Rows:
    """Add `gate · RMSNorm(branch)` to `x` in place, then return the RMSNorm of the sum times `scale`, as `norm` does.

    Args:
        x: the stream, bfloat16 `[B, tokens, width]`, contiguous; changed.
        branch: what a sublayer gave, of x's shape.
        branch_weight: of the branch's norm, `[width]`.
        gate: float32 `[B or 1, width]`.
        weight: of the norm behind, `[width]`.
        scale: float32 `[B or 1, width]`.
        eps: of both norms.
        quantize: as in `norm`.
    """
    h, scales = _output(x, x.shape[-1], quantize)
    _gate_norm[_grid(x)](
        x, branch, x, branch_weight, gate, weight, scale, h, scales, x.shape[1], x.shape[2],
        _stride(gate), _stride(scale), eps,
        BLOCK=triton.next_power_of_2(x.shape[2]), GATE=True, NORM=True, QUANTIZE=quantize, num_warps=8,
    )  # fmt: skip
    return Rows(h, scales) if quantize else h


def gate_(x: Tensor, branch: Tensor, branch_weight: Tensor, gate: Tensor, eps: float) -> Tensor:
    """Add `gate · RMSNorm(branch)` to `x` in place; arguments as in `gate_norm`."""
    _gate_norm[_grid(x)](
        x, branch, x, branch_weight, gate, branch_weight, gate, x, x, x.shape[1], x.shape[2],
        _stride(gate), 0, eps,
        BLOCK=triton.next_power_of_2(x.shape[2]), GATE=True, NORM=False, QUANTIZE=False, num_warps=8,
    )  # fmt: skip
    return x


def swiglu(gate_up: Tensor, *, quantize: bool) -> Tensor | Rows:
    """SwiGLU (arXiv 2002.05202): the first half of each row through SiLU, times the second.

    Args:
        gate_up: bfloat16 `[B, tokens, 2 · hidden]`, contiguous.
        quantize: return `Rows` of `B · tokens` rows instead of bfloat16 `[B, tokens, hidden]`.
    """
    hidden = gate_up.shape[-1] // 2
    h, scales = _output(gate_up, hidden, quantize)
    block = triton.next_power_of_2(hidden) if quantize else min(2048, triton.next_power_of_2(hidden))
    grid = (gate_up.shape[0] * gate_up.shape[1], triton.cdiv(hidden, block))
    _swiglu[grid](gate_up, h, scales, hidden, BLOCK=block, QUANTIZE=quantize, num_warps=max(4, min(16, block // 1024)))
    return Rows(h, scales) if quantize else h


def quantize_rows(x: Tensor) -> Rows:
    """Quantise bfloat16 `[…, width]`, contiguous, to e4m3 with a scale for each row."""
    h, scales = _output(x, x.shape[-1], quantize=True)
    _quantize[(h.shape[0],)](x, h, scales, x.shape[-1], BLOCK=triton.next_power_of_2(x.shape[-1]), num_warps=8)
    return Rows(h, scales)


def rotate_qk_(qkv: Tensor, weights: Tensor, rope: Tensor, heads: int, eps: float) -> None:
    """Norm each head of queries and keys, then turn it by its token's angles (arXiv 2104.09864), in place.

    Args:
        qkv: bfloat16 `[B, tokens, 3 · heads · head_dim]`, contiguous: queries, keys, values; head_dim a power of 2.
        weights: of the norms, `[2, head_dim]`: of queries and of keys.
        rope: float32 `[B, tokens, 1, head_dim / 2, 2]`, contiguous, (cos, sin) last.
        heads: how many.
        eps: of the norms.
    """
    batch, tokens, width = qkv.shape
    _rotate_qk[(batch * tokens, 2)](
        qkv, weights, rope, heads, eps,
        HEADS=triton.next_power_of_2(heads), HEAD_DIM=width // (3 * heads), num_warps=4,
    )  # fmt: skip


def _output(x: Tensor, width: int, quantize: bool) -> tuple[Tensor, Tensor]:
    """Where a kernel writes: values and scales; without quantisation the second is a placeholder."""
    if not quantize:
        h = x.new_empty(*x.shape[:-1], width)
        return h, h
    rows = x.numel() // x.shape[-1]
    return x.new_empty(rows, width, dtype=FP8), x.new_empty(rows, 1, dtype=torch.float32)


def _grid(x: Tensor) -> tuple[int]:
    return (x.shape[0] * x.shape[1],)


def _stride(modulation: Tensor) -> int:
    """From one image's row to the next; 0 when all images share one."""
    return modulation.stride(0) if len(modulation) > 1 else 0


@triton.jit
def _store(h, scales, row, width, columns, inside, y, QUANTIZE: tl.constexpr):
    if QUANTIZE:
        scale = tl.maximum(tl.max(tl.abs(y), 0), TINY) / FP8_MAX
        tl.store(scales + row, scale)
        y = tl.clamp(y * (1.0 / scale), -FP8_MAX, FP8_MAX)
    tl.store(h + row * width + columns, y.to(h.dtype.element_ty), mask=inside)


@triton.jit
def _gate_norm(
    x, branch, out, branch_weight, gate, weight, scale, h, scales,
    tokens, width, gate_stride, scale_stride, eps,
    BLOCK: tl.constexpr, GATE: tl.constexpr, NORM: tl.constexpr, QUANTIZE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    image = row // tokens
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    v = tl.load(x + row * width + columns, mask=inside, other=0.0).to(tl.float32)
    if GATE:
        b = tl.load(branch + row * width + columns, mask=inside, other=0.0).to(tl.float32)
        b *= tl.rsqrt(tl.sum(b * b, 0) / width + eps)
        b *= tl.load(branch_weight + columns, mask=inside, other=0.0).to(tl.float32)
        v += b * tl.load(gate + image * gate_stride + columns, mask=inside, other=0.0)
        rounded = v.to(out.dtype.element_ty)
        tl.store(out + row * width + columns, rounded, mask=inside)
        v = rounded.to(tl.float32)
    if NORM:
        v *= tl.rsqrt(tl.sum(v * v, 0) / width + eps)
        v *= tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
        v *= tl.load(scale + image * scale_stride + columns, mask=inside, other=0.0)
        _store(h, scales, row, width, columns, inside, v, QUANTIZE)


@triton.jit
def _swiglu(gate_up, h, scales, hidden, BLOCK: tl.constexpr, QUANTIZE: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < hidden
    gate = tl.load(gate_up + row * 2 * hidden + columns, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * hidden + hidden + columns, mask=inside, other=0.0).to(tl.float32)
    _store(h, scales, row, hidden, columns, inside, gate * tl.sigmoid(gate) * up, QUANTIZE)


@triton.jit
def _quantize(x, h, scales, width, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    v = tl.load(x + row * width + columns, mask=inside, other=0.0).to(tl.float32)
    _store(h, scales, row, width, columns, inside, v, QUANTIZE=True)


@triton.jit
def _rotate_qk(qkv, weights, rope, heads, eps, HEADS: tl.constexpr, HEAD_DIM: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)  # 0: queries, 1: keys
    head = tl.arange(0, HEADS)[:, None]
    channel = tl.arange(0, HEAD_DIM)
    place = qkv + (row * 3 + part) * heads * HEAD_DIM + head * HEAD_DIM + channel[None, :]
    v = tl.load(place, mask=head < heads, other=0.0).to(tl.float32)
    v *= tl.rsqrt(tl.sum(v * v, 1) / HEAD_DIM + eps)[:, None]
    v *= tl.load(weights + part * HEAD_DIM + channel).to(tl.float32)[None, :]
    even, odd = tl.split(tl.reshape(v, (HEADS, HEAD_DIM // 2, 2)))
    pair = tl.arange(0, HEAD_DIM // 2)
    cos = tl.load(rope + row * HEAD_DIM + pair * 2)[None, :]
    sin = tl.load(rope + row * HEAD_DIM + pair * 2 + 1)[None, :]
    turned = tl.join(even * cos - odd * sin, even * sin + odd * cos)
    v = tl.reshape(turned, (HEADS, HEAD_DIM))
    tl.store(place, v.to(qkv.dtype.element_ty), mask=head < heads)
