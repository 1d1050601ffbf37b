"""Kernels over rows of tokens: norms with modulation and gates, SwiGLU, and rows quantised on the way out."""

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra import libdevice

from pipeline.formats.row_format import SMALLEST, RowFormat, Rows

TINY = tl.constexpr(SMALLEST)


def norm(x: Tensor, weight: Tensor, scale: Tensor, eps: float, rows: RowFormat | None) -> Tensor | Rows:
    """RMSNorm (arXiv 1910.07467) of `x` times `scale`.

    Args:
        x: bfloat16 `[B, tokens, width]`, contiguous.
        weight: of the norm, `[width]`.
        scale: float32 `[B or 1, width]`, one row for each image or one for all.
        eps: of the norm.
        rows: return so quantised `Rows`, `B · tokens` of them, instead of a bfloat16 tensor of x's shape.
    """
    h, scales = _output(x, x.shape[-1], rows)
    _gate_norm[_grid(x)](
        x, x, x, x, scale, weight, scale, h, scales, x.shape[1], x.shape[2], 0, _stride(scale), eps,
        BLOCK=triton.next_power_of_2(x.shape[2]), GATE=False, NORM=True, LIMIT=_limit(rows), num_warps=8,
    )  # fmt: skip
    return Rows(h, scales) if rows else h


def gate_norm(
    x: Tensor,
    branch: Tensor,
    branch_weight: Tensor,
    gate: Tensor,
    weight: Tensor,
    scale: Tensor,
    eps: float,
    rows: RowFormat | None,
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
        rows: as in `norm`.
    """
    h, scales = _output(x, x.shape[-1], rows)
    _gate_norm[_grid(x)](
        x, branch, x, branch_weight, gate, weight, scale, h, scales, x.shape[1], x.shape[2],
        _stride(gate), _stride(scale), eps,
        BLOCK=triton.next_power_of_2(x.shape[2]), GATE=True, NORM=True, LIMIT=_limit(rows), num_warps=8,
    )  # fmt: skip
    return Rows(h, scales) if rows else h


def gate_(x: Tensor, branch: Tensor, branch_weight: Tensor, gate: Tensor, eps: float) -> Tensor:
    """Add `gate · RMSNorm(branch)` to `x` in place; arguments as in `gate_norm`."""
    _gate_norm[_grid(x)](
        x, branch, x, branch_weight, gate, branch_weight, gate, x, x, x.shape[1], x.shape[2],
        _stride(gate), 0, eps,
        BLOCK=triton.next_power_of_2(x.shape[2]), GATE=True, NORM=False, LIMIT=None, num_warps=8,
    )  # fmt: skip
    return x


def swiglu(gate_up: Tensor, rows: RowFormat | None) -> Tensor | Rows:
    """SwiGLU (arXiv 2002.05202): the first half of each row through SiLU, times the second.

    Args:
        gate_up: bfloat16 `[B, tokens, 2 · hidden]`, contiguous.
        rows: return so quantised `Rows`, `B · tokens` of them, instead of bfloat16 `[B, tokens, hidden]`.
    """
    hidden = gate_up.shape[-1] // 2
    h, scales = _output(gate_up, hidden, rows)
    block = triton.next_power_of_2(hidden) if rows else min(2048, triton.next_power_of_2(hidden))
    grid = (gate_up.shape[0] * gate_up.shape[1], triton.cdiv(hidden, block))
    warps = max(4, min(16, block // 1024))
    _swiglu[grid](gate_up, h, scales, hidden, BLOCK=block, LIMIT=_limit(rows), num_warps=warps)
    return Rows(h, scales) if rows else h


def quantize_rows(x: Tensor, rows: RowFormat) -> Rows:
    """Quantise bfloat16 `[…, width]`, contiguous, as `rows.quantize` does."""
    h, scales = _output(x, x.shape[-1], rows)
    block = triton.next_power_of_2(x.shape[-1])
    _quantize[(h.shape[0],)](x, h, scales, x.shape[-1], BLOCK=block, LIMIT=rows.limit, num_warps=8)
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


def _output(x: Tensor, width: int, rows: RowFormat | None) -> tuple[Tensor, Tensor]:
    """Where a kernel writes: values and scales; without quantisation the second is a placeholder."""
    if rows is None:
        h = x.new_empty(*x.shape[:-1], width)
        return h, h
    count = x.numel() // x.shape[-1]
    return x.new_empty(count, width, dtype=rows.dtype), x.new_empty(count, 1, dtype=torch.float32)


def _limit(rows: RowFormat | None) -> float | None:
    """The kernels' `LIMIT`."""
    return rows.limit if rows else None


def _grid(x: Tensor) -> tuple[int]:
    return (x.shape[0] * x.shape[1],)


def _stride(modulation: Tensor) -> int:
    """From one image's row to the next; 0 when all images share one."""
    return modulation.stride(0) if len(modulation) > 1 else 0


@triton.jit
def _store(h, scales, row, width, columns, inside, y, LIMIT: tl.constexpr):
    if LIMIT is not None:
        scale = tl.maximum(tl.max(tl.abs(y), 0), TINY) / LIMIT
        tl.store(scales + row, scale)
        y = tl.clamp(y * (1.0 / scale), -LIMIT, LIMIT)
        if h.dtype.element_ty.is_int():
            y = libdevice.rint(y)
    tl.store(h + row * width + columns, y.to(h.dtype.element_ty), mask=inside)


@triton.jit
def _gate_norm(
    x, branch, out, branch_weight, gate, weight, scale, h, scales,
    tokens, width, gate_stride, scale_stride, eps,
    BLOCK: tl.constexpr, GATE: tl.constexpr, NORM: tl.constexpr, LIMIT: tl.constexpr,
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
        _store(h, scales, row, width, columns, inside, v, LIMIT)


@triton.jit
def _swiglu(gate_up, h, scales, hidden, BLOCK: tl.constexpr, LIMIT: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < hidden
    gate = tl.load(gate_up + row * 2 * hidden + columns, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * hidden + hidden + columns, mask=inside, other=0.0).to(tl.float32)
    _store(h, scales, row, hidden, columns, inside, gate * tl.sigmoid(gate) * up, LIMIT)


@triton.jit
def _quantize(x, h, scales, width, BLOCK: tl.constexpr, LIMIT: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    v = tl.load(x + row * width + columns, mask=inside, other=0.0).to(tl.float32)
    _store(h, scales, row, width, columns, inside, v, LIMIT)


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
