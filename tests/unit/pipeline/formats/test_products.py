"""A number format takes the first of its products that a device does rightly."""

import logging
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pipeline.faults import BrokenDeviceError
from pipeline.formats.fp8 import E4M3, FP8
from pipeline.formats.products import NoProductError, Product, first_right
from pipeline.formats.row_format import Rows

CPU = torch.device("cpu")  # on which torch has fp8's products too, slow ones
ROW_SCALED, SCALED_AFTER = FP8.products["row-scaled"], FP8.products["scaled-after"]


def refuse(message: str) -> Product:
    def product(_x: Rows, _weight: Tensor, _scales: Tensor) -> Tensor:
        raise RuntimeError(message)

    return product


def spoil(change: Callable[[Tensor], Tensor]) -> Product:
    return lambda x, weight, scales: change(ROW_SCALED(x, weight, scales))


@pytest.mark.parametrize("name", ["row-scaled", "scaled-after"])
def test_fp8s_products_are_right(name: str) -> None:
    assert first_right({name: FP8.products[name]}, E4M3, CPU) == name


@pytest.mark.parametrize(
    "failing",
    [
        refuse("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasLtMatmulAlgoGetHeuristic(…)`"),
        refuse("Rowwise scaling is not currently supported on your device"),
        refuse("CUDA error: no kernel image is available for execution on the device"),
        spoil(lambda y: y * 1.02),
        spoil(torch.zeros_like),
        spoil(lambda y: y * float("nan")),
        spoil(lambda y: torch.cat([y[:-1], y[:1]])),  # the last row is another's
        lambda x, weight, scales: ROW_SCALED(Rows(x.values, x.scales.flip(0)), weight, scales),
        lambda x, weight, scales: ROW_SCALED(x, weight, scales.flip(1)),
    ],
)
def test_what_fails_or_is_wrong_is_passed_over_and_told(failing: Product, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert first_right({"first": failing, "second": SCALED_AFTER}, E4M3, CPU) == "second"
    assert "the product 'first' fails on cpu, so 'second' is taken: " in caplog.text


def test_a_device_that_does_none_is_told_of_each() -> None:
    with pytest.raises(NoProductError) as failure:
        first_right({"first": refuse("no\nkernel"), "second": spoil(torch.zeros_like)}, E4M3, CPU)
    assert str(failure.value) == "first: no kernel; second: its result is wrong by 1"


def test_a_product_that_breaks_the_device_says_nothing_of_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_device: torch.device) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr("pipeline.faults.multiply", broken)
    with pytest.raises(BrokenDeviceError):
        first_right({"first": refuse("CUDA error: unspecified launch failure"), "second": SCALED_AFTER}, E4M3, CPU)


def test_too_little_memory_says_nothing_of_a_product() -> None:
    with pytest.raises(RuntimeError, match="out of memory"):
        first_right({"first": refuse("CUDA error: out of memory"), "second": SCALED_AFTER}, E4M3, CPU)
