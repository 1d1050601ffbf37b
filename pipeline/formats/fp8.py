"""fp8: weights as e4m3 with a scale per output row, activations with a scale per token; and which weights become so.

The format is that of arXiv 2209.05433; the matrix products run on the tensor cores of GPUs with compute capability 8.9
or newer. A linear layer whose weight is in fp8 has e4m3 `weight` `[out, in]` and float32 `weight_scale` `[out, 1]`, in
memory as in files: the names are those of the library compressed-tensors.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

FP8 = torch.float8_e4m3fn
FP8_MAX = torch.finfo(FP8).max
FP8_CAPABILITY = (8, 9)
FP8_MULTIPLE = 16  # of both sides of a weight, or the tensor cores don't take it

# The one place that says which weights become fp8. What is one product on the GPU, [to_q, to_k, to_v] and [w1, w3], has
# to be named together. All else is small or sensitive, so it keeps its type.
FP8_WEIGHTS = re.compile(
    r"(?:noise_refiner|layers)\.\d+\.(?:attention\.to_(?:q|k|v|out\.0)|feed_forward\.w[123])\.weight"  # transformer
    r"|layers\.\d+\.(?:self_attn\.[qkvo]_proj|mlp\.(?:gate|up|down)_proj)\.weight"  # text encoder
)


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

    def __init__(self, weight: Rows) -> None:
        super().__init__()
        self.values = nn.Buffer(weight.values)  # e4m3 [out, in]
        self.scales = nn.Buffer(weight.scales.T.contiguous())  # float32 [1, out]

    def forward(self, x: Rows) -> Tensor:
        """From quantised rows `[rows, in]` to bfloat16 `[rows, out]`."""
        return torch._scaled_mm(
            x.values, self.values.T, x.scales, self.scales, out_dtype=torch.bfloat16, use_fast_accum=True
        )


def matrix(*linears: nn.Linear) -> Matrix | Fp8Matrix:
    """One product for linear layers without bias, their outputs side by side; in fp8 if all their weights are."""
    if all(is_fp8(linear) for linear in linears):
        values, scales = zip(*(fp8_weight(linear) for linear in linears), strict=True)
        return Fp8Matrix(Rows(_stack(values), _stack(scales)))
    return Matrix(_stack([_bfloat16_weight(linear) for linear in linears]))


def takes_fp8(name: str, shape: Sequence[int]) -> bool:
    """Whether a weight of transformer or text encoder, by its name in them and its shape, becomes fp8."""
    return FP8_WEIGHTS.fullmatch(name) is not None and all(size % FP8_MULTIPLE == 0 for size in shape)


def quantize_(module: nn.Module, name: str, device: torch.device) -> None:
    """Turn the linear layers of a part of transformer or text encoder into fp8 where they take it and aren't yet.

    Args:
        module: the part, which may be a linear layer itself; changed in place. Its weights are as stored, since those
            in float32 would become others by way of bfloat16 than `write_quantized_checkpoint` makes of them.
        name: the part's own, such as `layers.3`.
        device: where to do it, and where the fp8 weights are then.
    """
    for path, linear in module.named_modules(prefix=name):
        if isinstance(linear, nn.Linear) and takes_fp8(f"{path}.weight", linear.weight.shape) and not is_fp8(linear):
            set_fp8_weight(linear, quantize_weight(linear.weight.to(device)))


def settle_(module: nn.Module, device: torch.device) -> None:
    """Move a part with its weights as stored to where they are used, one by one; all but fp8 become bfloat16 there.

    Where `device` runs no fp8, that becomes bfloat16 too.
    """
    for linear in module.modules():
        if isinstance(linear, nn.Linear) and is_fp8(linear) and not supports_fp8(device):
            weight = Rows(*(tensor.to(device) for tensor in fp8_weight(linear)))
            linear.weight = nn.Parameter(dequantize(weight, torch.bfloat16), requires_grad=False)
            del linear.weight_scale
    for parameter in module.parameters():
        if parameter.dtype != FP8:
            parameter.data = parameter.data.to(device).to(torch.bfloat16)
    module.to(device)


def is_fp8(linear: nn.Linear) -> bool:
    """Whether the layer's weight is in fp8."""
    return linear.weight.dtype == FP8


def fp8_weight(linear: nn.Linear) -> Rows:
    """The weight of a layer in fp8."""
    return Rows(linear.weight.detach(), linear.get_buffer("weight_scale"))


def set_fp8_weight(linear: nn.Linear, weight: Rows) -> None:
    """Replace the layer's weight by one in fp8; its own forward no longer works then."""
    linear.weight = nn.Parameter(weight.values, requires_grad=False)
    linear.register_buffer("weight_scale", weight.scales)


def quantize_weight(weight: Tensor) -> Rows:
    """A weight `[out, in]` in fp8; the same to the bit on every device."""
    weight = weight.detach().float()
    # Times the reciprocal, since that is what a GPU makes of the division by a constant.
    scales = weight.abs().amax(dim=1, keepdim=True).clamp_min(1e-12) * (1 / FP8_MAX)
    return Rows((weight / scales).clamp(-FP8_MAX, FP8_MAX).to(FP8), scales)


def dequantize(weight: Rows, dtype: torch.dtype) -> Tensor:
    """A weight `[out, in]` in fp8 as one of another type."""
    return (weight.values.float() * weight.scales).to(dtype)


def supports_fp8(device: torch.device) -> bool:
    """Whether the device has tensor cores for fp8."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= FP8_CAPABILITY


def check_quantization(quantization: str | None, device: torch.device, dtype: torch.dtype) -> None:
    """Refuse what `device` cannot run with activations of type `dtype`.

    Raises:
        QuantizationError: an unknown name, or fp8 where the device has none or beside another type than bfloat16.
    """
    if quantization not in (None, "fp8"):
        raise QuantizationError(f"quantization is {quantization!r}, supported: None and 'fp8'")
    if quantization is None:
        return
    if supports_fp8(device):
        if dtype != torch.bfloat16:
            raise QuantizationError(f"quantization 'fp8' needs torch.bfloat16 for all else, and dtype is {dtype}")
        return
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"
    raise QuantizationError(
        f"quantization 'fp8' needs an NVIDIA GPU of compute capability 8.9 or newer (Ada, Hopper, Blackwell), and "
        f"{name} is none; without it (quantization=None, ZIMAGE_QUANTIZATION=none) the weights stay bfloat16, which "
        "takes about 22 GB of a GPU's memory for Z-Image-Turbo"
    )


def _bfloat16_weight(linear: nn.Linear) -> Tensor:
    return dequantize(fp8_weight(linear), torch.bfloat16) if is_fp8(linear) else linear.weight


def _stack(weights: Sequence[Tensor]) -> Tensor:
    """One weight below the other; a single one is not copied."""
    return weights[0] if len(weights) == 1 else torch.cat(list(weights))
