"""fp8: weights as e4m3 with a scale per output row, activations with a scale per token, made on the fly.

The format is that of arXiv 2209.05433; the matrix products run on the tensor cores of GPUs with compute capability 8.9
or newer.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

FP8 = torch.float8_e4m3fn
FP8_MAX = torch.finfo(FP8).max
FP8_CAPABILITY = (8, 9)
FP8_MULTIPLE = 16  # of both sides of a weight


class QuantizationError(ValueError):
    """This device cannot run the quantization asked for; the message names what can be used instead."""


class Rows(NamedTuple):
    """Rows quantised each with its own scale: row i is `values[i] * scales[i]`."""

    values: Tensor  # e4m3 [rows, width]
    scales: Tensor  # float32 [rows, 1]


class Matrix(nn.Module):
    """`x @ weight.T` in bfloat16."""

    quantized = False  # what it takes: a tensor, not `Rows`

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Buffer(weight.detach())

    def forward(self, x: Tensor) -> Tensor:
        """From `[…, in]` to `[…, out]`."""
        return nn.functional.linear(x, self.weight)


class Fp8Matrix(nn.Module):
    """`x @ weight.T` in fp8, accumulated in float32."""

    quantized = True

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        values, scales = quantize_weight(weight)
        self.values = nn.Buffer(values)  # e4m3 [out, in]
        self.scales = nn.Buffer(scales.T.contiguous())  # float32 [1, out]

    def forward(self, x: Rows) -> Tensor:
        """From quantised rows `[rows, in]` to bfloat16 `[rows, out]`."""
        return torch._scaled_mm(
            x.values, self.values.T, x.scales, self.scales, out_dtype=torch.bfloat16, use_fast_accum=True
        )


def matrix(weight: Tensor, *, quantize: bool) -> Matrix | Fp8Matrix:
    """A weight `[out, in]` in fp8; in bfloat16 if not asked for or if the tensor cores take no such sizes."""
    if quantize and fits(weight):
        return Fp8Matrix(weight)
    return Matrix(weight)


def fits(weight: Tensor) -> bool:
    """Whether fp8 products take a weight of this size."""
    return all(size % FP8_MULTIPLE == 0 for size in weight.shape)


def quantize_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """e4m3 values `[out, in]` and float32 scales `[out, 1]` of a weight `[out, in]`."""
    weight = weight.float()
    scales = weight.abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / FP8_MAX
    return (weight / scales).clamp(-FP8_MAX, FP8_MAX).to(FP8), scales


def check_quantization(quantization: str | None, device: torch.device) -> None:
    """Refuse what `device` cannot run.

    Raises:
        QuantizationError: an unknown name, or fp8 where the device has none.
    """
    if quantization not in (None, "fp8"):
        raise QuantizationError(f"quantization is {quantization!r}, supported: None and 'fp8'")
    if quantization is None:
        return
    name = "the CPU"
    if device.type == "cuda":
        if torch.cuda.get_device_capability(device) >= FP8_CAPABILITY:
            return
        name = torch.cuda.get_device_name(device)
    raise QuantizationError(
        f"quantization 'fp8' needs an NVIDIA GPU of compute capability 8.9 or newer (Ada, Hopper, Blackwell), and "
        f"{name} is none; leave it unset, which runs everywhere"
    )
