"""Rows of few bits: values beside a scale for each row, whatever the bits are."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

SMALLEST = 1e-12  # keeps the scale of a row of zeros above zero


class Rows(NamedTuple):
    """Rows quantised each with its own scale: row i is `values[i] * scales[i]`."""

    values: Tensor  # [rows, width]
    scales: Tensor  # float32 [rows, 1]

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The rows `[rows, width]` as numbers of another type."""
        return (self.values.float() * self.scales).to(dtype)


@dataclass(frozen=True)
class RowFormat:
    """How a row is quantised: symmetrically, so that its largest value becomes `limit`."""

    dtype: torch.dtype
    limit: float

    def quantize(self, x: Tensor) -> Rows:
        """Quantise `[rows, width]`; the same to the bit on every device."""
        x = x.detach().float()
        # Times the reciprocal, since that is what a GPU makes of the division by a constant.
        scales = x.abs().amax(dim=1, keepdim=True).clamp_min(SMALLEST) * (1 / self.limit)
        values = (x / scales).clamp(-self.limit, self.limit)
        if not self.dtype.is_floating_point:
            values = values.round()
        return Rows(values.to(self.dtype), scales)
