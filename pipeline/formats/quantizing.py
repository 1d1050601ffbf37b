"""Linear layers whose weights are in a number format: on their way from a checkpoint to the products on a device.

Such a layer has `weight` `[out, in]` in the format's type and float32 `weight_scale` `[out, 1]`, in memory as in files;
its own forward does not work.
"""

import itertools
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from pipeline.formats.bfloat16 import BFloat16Matrix
from pipeline.formats.number_format import Matrix, NumberFormat
from pipeline.formats.registry import FORMATS
from pipeline.formats.row_format import Rows


def format_of(linear: nn.Linear) -> NumberFormat | None:
    """The format that the layer's weight is in; None: in none, it is a floating-point number."""
    return next((known for known in FORMATS.values() if linear.weight.dtype == known.rows.dtype), None)


def quantized_weight(linear: nn.Linear) -> Rows:
    """The weight of a layer that is in a format."""
    return Rows(linear.weight.detach(), linear.get_buffer("weight_scale"))


def set_quantized_weight(linear: nn.Linear, weight: Rows) -> None:
    """Replace the layer's weight by one in a format."""
    linear.weight = nn.Parameter(weight.values, requires_grad=False)
    linear.register_buffer("weight_scale", weight.scales)


def matrix(*linears: nn.Linear) -> Matrix:
    """One product for layers without bias, their outputs side by side; in a format if all their weights are in it."""
    first, *others = map(format_of, linears)
    if first is None or any(other is not first for other in others):
        return BFloat16Matrix(_stack([_bfloat16_weight(linear) for linear in linears]))
    values, scales = zip(*map(quantized_weight, linears), strict=True)
    return first.matrix(Rows(_stack(values), _stack(scales)))


def join(block: nn.Module, *names: str) -> Matrix:
    """One product for layers of a block, as `matrix` makes it; its `parts` tell them apart."""
    linears = [cast("nn.Linear", block.get_submodule(name)) for name in names]
    joined = matrix(*linears)
    ends = itertools.accumulate(linear.out_features for linear in linears)
    joined.parts = {
        name: slice(end - linear.out_features, end) for name, linear, end in zip(names, linears, ends, strict=True)
    }
    return joined


def quantize_(module: nn.Module, name: str, number_format: NumberFormat, device: torch.device) -> None:
    """Bring the linear layers of a part of transformer or text encoder into a format where it takes them.

    Args:
        module: the part, which may be a linear layer itself; changed in place. Its weights are as stored, since those
            in float32 would become others by way of bfloat16 than `write_quantized_checkpoint` makes of them.
        name: the part's own, such as `layers.3`.
        number_format: what layers become that are in none yet.
        device: where to do it, and where those weights are then.
    """
    for path, linear in module.named_modules(prefix=name):
        if not isinstance(linear, nn.Linear) or format_of(linear):
            continue
        if number_format.takes(f"{path}.weight", linear.weight.shape):
            set_quantized_weight(linear, number_format.rows.quantize(linear.weight.to(device)))


def settle_(module: nn.Module, device: torch.device) -> None:
    """Move a part with its weights as stored to where they are used, one by one; what is in no format becomes bfloat16.

    What is in a format that `device` does not run becomes bfloat16 too.
    """
    for linear in module.modules():
        if isinstance(linear, nn.Linear) and (known := format_of(linear)) and not known.runs_on(device):
            weight = Rows(*(tensor.to(device) for tensor in quantized_weight(linear)))
            linear.weight = nn.Parameter(weight.dequantize(torch.bfloat16), requires_grad=False)
            del linear.weight_scale
    quantized = {known.rows.dtype for known in FORMATS.values()}
    for parameter in module.parameters():
        if parameter.dtype not in quantized:
            parameter.data = parameter.data.to(device).to(torch.bfloat16)
    module.to(device)


def _bfloat16_weight(linear: nn.Linear) -> Tensor:
    return quantized_weight(linear).dequantize(torch.bfloat16) if format_of(linear) else linear.weight


def _stack(weights: Sequence[Tensor]) -> Tensor:
    """One weight below the other; a single one is not copied."""
    return weights[0] if len(weights) == 1 else torch.cat(list(weights))
