"""fp8: weights as e4m3 with a scale per output row, activations with a scale per token.

The format is that of arXiv 2209.05433; the products run on the tensor cores of GPUs with compute capability 8.9 or
newer. In files the names are those of the library compressed-tensors: e4m3 `weight` `[out, in]` and float32
`weight_scale` `[out, 1]`.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.formats.number_format import Matrix, NumberFormat
from pipeline.formats.products import Product
from pipeline.formats.row_format import RowFormat, Rows

NAME = "fp8"
E4M3 = RowFormat(torch.float8_e4m3fn, torch.finfo(torch.float8_e4m3fn).max)
CAPABILITY = (8, 9)


def row_scaled(x: Rows, weight: Tensor, scales: Tensor) -> Tensor:
    """Torch's product by cuBLAS or CUTLASS, which takes the scales of both."""
    return torch._scaled_mm(x.values, weight.T, x.scales, scales, out_dtype=torch.bfloat16, use_fast_accum=True)


def triton(x: Rows, weight: Tensor, scales: Tensor) -> Tensor:
    """A kernel of ours, which takes the scales of both."""
    from pipeline.formats.kernels.row_scaled import row_scaled_product  # it needs Triton

    return row_scaled_product(x.values, x.scales, weight, scales)


def scaled_after(x: Rows, weight: Tensor, scales: Tensor) -> Tensor:
    """The product of the values, with the scales behind it: all that some builds of torch have for a card."""
    one = scales.new_ones(())
    y = torch._scaled_mm(x.values, weight.T, one, one, out_dtype=torch.bfloat16, use_fast_accum=True)
    return y.mul_(x.scales).mul_(scales)


class Fp8Matrix(Matrix):
    """`x @ weight.T` in fp8, accumulated in float32, by one of the format's products."""

    format_name = NAME
    rows = E4M3

    def __init__(self, weight: Rows, product: str, multiply: Product) -> None:
        super().__init__()
        self.values = nn.Buffer(weight.values)  # e4m3 [out, in]
        self.scales = nn.Buffer(weight.scales.T.contiguous())  # float32 [1, out]
        self.product, self.multiply = product, multiply

    def forward(self, x: Rows) -> Tensor:
        """From quantised rows `[rows, in]` to bfloat16 `[rows, out]`."""
        return self.multiply(x, self.values, self.scales)


class Fp8(NumberFormat):
    """e4m3 on the tensor cores of Ada, Hopper or newer."""

    name = NAME
    rows = E4M3
    products: Mapping[str, Product] = MappingProxyType(
        {"row-scaled": row_scaled, "triton": triton, "scaled-after": scaled_after}
    )
    multiple = 16
    stored_as = "F8_E4M3"
    hardware = "an NVIDIA GPU of compute capability 8.9 or newer (Ada, Hopper, Blackwell)"

    def has_hardware(self, device: torch.device) -> bool:
        """Whether the device has tensor cores for fp8."""
        return device.type == "cuda" and torch.cuda.get_device_capability(device) >= CAPABILITY

    def matrix(self, weight: Rows) -> Fp8Matrix:
        """The product with a weight `[out, in]`."""
        product = self.product(weight.values.device)
        return Fp8Matrix(weight, product, self.products[product])

    def file_config(self, names: Sequence[str]) -> dict[str, Any]:
        """What compressed-tensors, and with it transformers and vLLM, is told."""
        eight_bits = {"num_bits": 8, "type": "float", "symmetric": True}
        return {
            "quant_method": "compressed-tensors",
            "format": "float-quantized",
            "quantization_status": "compressed",
            "config_groups": {
                "group_0": {
                    "targets": [name.removesuffix(".weight") for name in names],
                    "weights": {**eight_bits, "strategy": "channel", "dynamic": False},
                    "input_activations": {**eight_bits, "strategy": "token", "dynamic": True},
                }
            },
        }


FP8 = Fp8()
