"""fp8: weights as e4m3 with a scale per output row, activations with a scale per token.

The format is that of arXiv 2209.05433; the products run on the tensor cores of GPUs with compute capability 8.9 or
newer. In files the names are those of the library compressed-tensors: e4m3 `weight` `[out, in]` and float32
`weight_scale` `[out, 1]`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.formats.number_format import Matrix, NumberFormat
from pipeline.formats.row_format import RowFormat, Rows

NAME = "fp8"
E4M3 = RowFormat(torch.float8_e4m3fn, torch.finfo(torch.float8_e4m3fn).max)
CAPABILITY = (8, 9)


class Fp8Matrix(Matrix):
    """`x @ weight.T` in fp8, accumulated in float32."""

    format_name = NAME
    rows = E4M3

    def __init__(self, weight: Rows) -> None:
        super().__init__()
        self.values = nn.Buffer(weight.values)  # e4m3 [out, in]
        self.scales = nn.Buffer(weight.scales.T.contiguous())  # float32 [1, out]

    def forward(self, x: Rows) -> Tensor:
        """From quantised rows `[rows, in]` to bfloat16 `[rows, out]`."""
        return torch._scaled_mm(
            x.values, self.values.T, x.scales, self.scales, out_dtype=torch.bfloat16, use_fast_accum=True
        )


class Fp8(NumberFormat):
    """e4m3 on the tensor cores of Ada, Hopper or newer."""

    name = NAME
    rows = E4M3
    multiple = 16
    stored_as = "F8_E4M3"
    hardware = "an NVIDIA GPU of compute capability 8.9 or newer (Ada, Hopper, Blackwell)"

    def runs_on(self, device: torch.device) -> bool:
        """Whether the device has tensor cores for fp8."""
        return device.type == "cuda" and torch.cuda.get_device_capability(device) >= CAPABILITY

    def matrix(self, weight: Rows) -> Fp8Matrix:
        """The product with a weight `[out, in]`."""
        return Fp8Matrix(weight)

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
