"""What every number format has: which weights become so, what runs them, their product, their spelling in files."""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.formats.products import NoProductError, Product, first_right
from pipeline.formats.row_format import RowFormat, Rows

# The one place that says which weights are quantised. What is one product on the GPU, [to_q, to_k, to_v] and [w1, w3],
# has to be named together. All else is small or sensitive, so it keeps its type.
LARGE_MATRICES = re.compile(
    r"(?:noise_refiner|layers)\.\d+\.(?:attention\.to_(?:q|k|v|out\.0)|feed_forward\.w[123])\.weight"  # transformer
    r"|layers\.\d+\.(?:self_attn\.[qkvo]_proj|mlp\.(?:gate|up|down)_proj)\.weight"  # text encoder
)


class QuantizationError(ValueError):
    """This device cannot run the quantization asked for; the message names what can be used instead."""


class Matrix(nn.Module, ABC):
    """`x @ weight.T`."""

    format_name: str | None = None  # the number format that the weight is in; None: bfloat16
    product: str | None = None  # which of the format's; None: bfloat16's
    rows: RowFormat | None = None  # what x has to be quantised to; None: it is a bfloat16 tensor
    parts: Mapping[str, slice] = MappingProxyType({})  # which outputs are whose, where a block's layers were joined

    @abstractmethod
    def forward(self, x: Any) -> Tensor:
        """From `[…, in]`, or `Rows` `[rows, in]`, to bfloat16 `[…, out]`."""


class NumberFormat(ABC):
    """Weights and activations of few bits, with a scale for each row of either."""

    name: str  # by which users choose it
    rows: RowFormat
    products: Mapping[str, Product]  # that may run on a device, by their names, the one to be preferred first
    multiple: int  # of both sides of a weight, or the hardware doesn't take it
    stored_as: str  # safetensors' word for the values' type
    hardware: str  # that runs it, as users are told

    @abstractmethod
    def has_hardware(self, device: torch.device) -> bool:
        """Whether the device is of the kind that the products are for."""

    @abstractmethod
    def matrix(self, weight: Rows) -> Matrix:
        """The product with a weight `[out, in]`."""

    @abstractmethod
    def file_config(self, names: Sequence[str]) -> dict[str, Any]:
        """What a config's `quantization_config` tells other libraries of the weights `names`."""

    def product(self, device: torch.device) -> str:
        """Return which product is done on a device; they are tried there the first time.

        Raises:
            NoProductError: the device does none of them rightly.
            RuntimeError: there is too little memory to try (`Fault.MEMORY`).
        """
        # `cuda` is a name for the GPU in use, and weights know its full one: under both it would be tried twice.
        return _product(self, torch.empty(0, device=device).device)

    def runs_on(self, device: torch.device) -> bool:
        """Whether the device does one of the products; raises RuntimeError as `product` does."""
        try:
            return self.has_hardware(device) and bool(self.product(device))
        except NoProductError:
            return False

    def takes(self, name: str, shape: Sequence[int]) -> bool:
        """Whether a weight of transformer or text encoder, by its name in them and its shape, becomes so."""
        return LARGE_MATRICES.fullmatch(name) is not None and all(size % self.multiple == 0 for size in shape)

    def scale_name(self, name: str) -> str:
        """The name in files of the scales `[rows, 1]` of a weight."""
        return f"{name}_scale"

    def check(self, device: torch.device, dtype: torch.dtype) -> None:
        """Refuse a device that does not run it, or activations of another type than bfloat16 beside it.

        Raises:
            QuantizationError: it can't be; the message says why and what can.
        """
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"
        instead = "without quantization the weights stay bfloat16, which takes 22 GB of GPU memory for Z-Image-Turbo"
        if not self.has_hardware(device):
            raise QuantizationError(f"{self.name} needs {self.hardware}, and {name} is none; {instead}")
        try:
            self.product(device)
        except NoProductError as error:
            reasons = f"with torch {torch.__version__} ({error})"
            raise QuantizationError(f"{self.name} does not run on {name} {reasons}; {instead}") from error
        if dtype != torch.bfloat16:
            raise QuantizationError(f"{self.name} needs torch.bfloat16 for all else, and dtype is {dtype}")


@cache
def _product(number_format: NumberFormat, device: torch.device) -> str:
    return first_right(number_format.products, number_format.rows, device)
