"""Where each matrix of a checkpoint is at work, in the reference and fused alike: there a side path (LoRA) can stand.

A side path is a forward hook on a place's module; it may change `output[..., place.outputs]`. Put it there before the
first picture: what is recorded of small ones holds what was there then. Its own tensors may be changed in place later.
"""

from typing import NamedTuple

from torch import nn

from pipeline.formats.number_format import Matrix


class Place(NamedTuple):
    """One matrix."""

    module: nn.Module  # its forward takes `[…, in]`, or `Rows`, and gives the product, perhaps beside others'
    outputs: slice  # what of the last dimension is this matrix's


def places(model: nn.Module) -> dict[str, Place]:
    """The places in a transformer by their names in the checkpoint, such as `layers.3.attention.to_q`."""
    found: dict[str, Place] = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear):
            found[path] = Place(module, slice(None))
        elif isinstance(module, Matrix):
            block = path.rpartition(".")[0]
            found |= {f"{block}.{name}": Place(module, outputs) for name, outputs in module.parts.items()}
    return found
