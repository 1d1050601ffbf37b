"""Which of a number format's products a device can do: each is tried there, and the first that is right is taken.

A card's compute capability does not tell: a build of torch may lack the kernel for it, and says so when it is called.
"""

import logging
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from pipeline.faults import Fault, fault_of, try_device
from pipeline.formats.row_format import RowFormat, Rows

log = logging.getLogger(__name__)

# From quantised rows `[rows, in]`, a weight's values `[out, in]` and its scales `[1, out]` to bfloat16 `[rows, out]`.
Product = Callable[[Rows, Tensor, Tensor], Tensor]

ROWS, OUTPUTS = 37, 96  # no multiple of a kernel's blocks, but for the 16 that every one wants
DEPTHS = 256, 272  # that of most weights, which kernels have a variant for; and none of theirs
ERROR = 0.01  # relative; bfloat16 rounds by 0.002, tensor cores may accumulate in 14 bits


class NoProductError(RuntimeError):
    """The device does none of the products rightly; the message says what became of each."""


def first_right(products: Mapping[str, Product], rows: RowFormat, device: torch.device) -> str:
    """Try products in their order; return the name of the first that a device does rightly.

    Args:
        products: by their names, the one to be preferred first.
        rows: the format of what they multiply.
        device: where.

    Raises:
        NoProductError: none is right.
        RuntimeError: there is too little memory to try (`Fault.MEMORY`).
        BrokenDeviceError: a product has left the device broken.
    """
    failures = {}
    for name, product in products.items():
        try:
            errors = [_error(product, depth, rows, device) for depth in DEPTHS]
        except Exception as refusal:
            if fault_of(refusal) is Fault.MEMORY:
                raise
            try_device(device)  # or what is broken by one would be said of the next
            failures[name] = " ".join(str(refusal).split())[:200] or type(refusal).__name__
        else:
            if all(error <= ERROR for error in errors):  # not so for NaN
                for failed, reason in failures.items():
                    log.warning("the product %r fails on %s, so %r is taken: %s", failed, device, name, reason)
                return name
            failures[name] = f"its result is wrong by {max(errors):.2g}"
    raise NoProductError("; ".join(f"{name}: {reason}" for name, reason in failures.items()))


def _error(product: Product, depth: int, rows: RowFormat, device: torch.device) -> float:
    """By how much a product of this depth is wrong, as a part of it."""
    x, weight = _numbers(ROWS, depth, rows, device), _numbers(OUTPUTS, depth, rows, device)
    expected = x.values.double() @ weight.values.double().T
    y = product(x, weight.values, weight.scales.T.contiguous()).double() / x.scales / weight.scales.T
    return float((y - expected).norm() / expected.norm())


def _numbers(count: int, depth: int, rows: RowFormat, device: torch.device) -> Rows:
    """Some rows, the same ones every time, whose scales lie far apart, so that one out of its place is seen."""
    numbers = torch.randn(count, depth, generator=torch.Generator().manual_seed(0))
    return rows.quantize((numbers * torch.logspace(-2, 2, count)[:, None]).to(device))
