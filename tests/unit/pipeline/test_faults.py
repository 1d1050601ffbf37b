"""Errors of a device are sorted, whoever tells them."""

import pytest
import torch

from pipeline.faults import BrokenDeviceError, Fault, fault_of, try_device

ILLEGAL = "an illegal memory access was encountered"


class CompilationError(Exception):
    """As Triton has it."""

    __module__ = "triton.compiler.errors"


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError(f"CUDA error: {ILLEGAL}"),
        RuntimeError(f"CUDA error: {ILLEGAL}\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasLtMatmul( ltHandle, …)`"),
        RuntimeError("CUBLAS_STATUS_INTERNAL_ERROR when calling cublasGemmEx"),
        RuntimeError(f"Triton Error [CUDA]: {ILLEGAL}"),
        RuntimeError(f"CUDA driver error: {ILLEGAL}"),
        RuntimeError("CUDA driver error: unspecified launch failure"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED_CUDART"),
        RuntimeError("CUDNN_STATUS_MAPPING_ERROR"),
        RuntimeError("NCCL error in: ProcessGroupNCCL.cpp:3690, unhandled cuda error, NCCL version 2.28.9"),
        RuntimeError('NVML_SUCCESS == r INTERNAL ASSERT FAILED at "CUDACachingAllocator.cpp":1131'),
        RuntimeError("CUDA error: uncorrectable ECC error encountered"),
        RuntimeError("CUDA error: an error that nobody has seen yet"),
        RuntimeError("CUDA error: operation not supported on global/shared address space"),
    ],
    ids=str,
)
def test_most_errors_leave_a_broken_device(error: Exception) -> None:
    assert fault_of(error) is Fault.BROKEN


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        torch.AcceleratorError("CUDA error: out of memory"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA driver error: out of memory"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("FIND was unable to find an engine to execute this computation"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    ],
    ids=str,
)
def test_too_little_memory_is_no_broken_device(error: Exception) -> None:
    assert fault_of(error) is Fault.MEMORY


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: no kernel image is available for execution on the device"),
        RuntimeError("Triton Error [CUDA]: device kernel image is invalid"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasLtMatmulAlgoGetHeuristic(…)`"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ARCH_MISMATCH when calling `cublasGemmEx(…)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED_ARCH_MISMATCH"),
        RuntimeError("cuDNN Frontend error: [cudnn_frontend] Error: No execution plans support the graph."),
        RuntimeError("CUDA error: too many resources requested for launch"),
        RuntimeError("cuDNN error: CUDNN_STATUS_SUBLIBRARY_LOADING_FAILED"),
        RuntimeError("nvrtc: error: failed to open libnvrtc-builtins.so.13.0."),
        CompilationError("at 12:4: type bf16 not supported in this architecture"),
    ],
    ids=str,
)
def test_what_a_device_has_no_kernel_for_leaves_it_as_it_is(error: Exception) -> None:
    assert fault_of(error) is Fault.UNSUPPORTED


@pytest.mark.parametrize(
    "error",
    [
        ValueError("prompt is empty, expected some text"),
        KeyError("CUDA error"),
        RuntimeError("Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"),
        RuntimeError("The size of tensor a (3) must match the size of tensor b (4) at non-singleton dimension 1"),
        OSError("out of memory"),
        RuntimeError("CUDA error: invalid configuration argument"),
        RuntimeError("CUDA error: CUBLAS_STATUS_INVALID_VALUE when calling `cublasSgemm( handle, …)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_BAD_PARAM"),
    ],
    ids=str,
)
def test_errors_of_what_it_was_given_are_none_of_the_device_s(error: Exception) -> None:
    assert fault_of(error) is None


def test_a_device_that_does_nothing_is_found_out() -> None:
    try_device(torch.device("cpu"))
    with pytest.raises(BrokenDeviceError) as told:
        try_device(torch.device("meta"))  # which computes nothing
    assert fault_of(told.value) is Fault.BROKEN


def test_a_device_that_is_found_broken_is_broken_whatever_it_says() -> None:
    assert fault_of(BrokenDeviceError("the device does nothing more: no kernel image is available")) is Fault.BROKEN
