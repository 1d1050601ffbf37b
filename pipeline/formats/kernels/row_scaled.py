"""The product of quantised rows as a kernel of ours, for GPUs on which torch has none that takes scales of rows."""

import torch
import triton
import triton.language as tl
from torch import Tensor

# Two stages of both tiles, 64 KiB, fit the shared memory of every GPU with fp8; a third is there on most.
ROWS, OUTPUTS, DEPTH = 128, 128, 128
GROUP = 8  # blocks of rows that share a block of the weight while it is in the L2 cache


def row_scaled_product(x: Tensor, x_scales: Tensor, weight: Tensor, weight_scales: Tensor) -> Tensor:
    """`(x · x_scales) @ (weight · weight_scales).T`, accumulated in float32.

    Args:
        x: values `[rows, in]`, contiguous.
        x_scales: float32 `[rows, 1]`.
        weight: values `[out, in]` of the same type, contiguous.
        weight_scales: float32 `[1, out]`.

    Returns:
        bfloat16 `[rows, out]`.
    """
    rows, depth = x.shape
    outputs = len(weight)
    y = x.new_empty(rows, outputs, dtype=torch.bfloat16)
    grid = (triton.cdiv(rows, ROWS) * triton.cdiv(outputs, OUTPUTS),)
    _multiply[grid](
        x, x_scales, weight, weight_scales, y, rows, outputs, depth,
        ROWS=ROWS, OUTPUTS=OUTPUTS, DEPTH=DEPTH, GROUP=GROUP, EVEN=depth % DEPTH == 0, num_warps=8, num_stages=3,
    )  # fmt: skip
    return y


@triton.jit
def _multiply(
    x, x_scales, weight, weight_scales, y, rows, outputs, depth,
    ROWS: tl.constexpr, OUTPUTS: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0)
    row_blocks, output_blocks = tl.cdiv(rows, ROWS), tl.cdiv(outputs, OUTPUTS)
    first = block // (GROUP * output_blocks) * GROUP
    together = tl.minimum(row_blocks - first, GROUP)
    within = block % (GROUP * output_blocks)
    row = (first + within % together) * ROWS + tl.arange(0, ROWS)
    output = within // together * OUTPUTS + tl.arange(0, OUTPUTS)
    k = tl.arange(0, DEPTH)
    # What lies beyond the last row or output is read from the beginning again, and not stored.
    x_at = x + (row % rows).to(tl.int64)[:, None] * depth + k[None, :]
    weight_at = weight + (output % outputs).to(tl.int64)[None, :] * depth + k[:, None]
    total = tl.zeros((ROWS, OUTPUTS), tl.float32)
    for start in range(0, depth, DEPTH):
        if EVEN:
            a, b = tl.load(x_at), tl.load(weight_at)
        else:
            a = tl.load(x_at, mask=k[None, :] < depth - start, other=0.0)
            b = tl.load(weight_at, mask=k[:, None] < depth - start, other=0.0)
        total = tl.dot(a, b, total)
        x_at += DEPTH
        weight_at += DEPTH
    total *= tl.load(x_scales + row % rows)[:, None]
    total *= tl.load(weight_scales + output % outputs)[None, :]
    inside = (row < rows)[:, None] & (output < outputs)[None, :]
    tl.store(y + row.to(tl.int64)[:, None] * outputs + output[None, :], total.to(y.dtype.element_ty), mask=inside)
