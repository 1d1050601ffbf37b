"""Errors of the device: sorted, by type and as CUDA, its libraries, Triton and NCCL spell them."""

import re
from enum import Enum, auto

import torch


class Fault(Enum):
    """What an error of the device means for the process."""

    BROKEN = auto()  # nothing works on it any more: most of CUDA's errors are sticky
    MEMORY = auto()  # too little of it is free; what asks for less may work
    UNSUPPORTED = auto()  # it has no kernel for this; others work


class BrokenDeviceError(RuntimeError):
    """The device fails at what any device can do."""


# Each in torch's, Triton's or the library's own words. What none of the other two expressions knows is a broken device.
_OF_DEVICE = re.compile(
    r"CUDA (driver |runtime )?error|Triton Error \[CUDA\]|(CUBLAS|CUDNN|CUSPARSE|CUSOLVER)_STATUS_|CUFFT_\w"
    r"|cuDNN (Frontend )?error|cuDNN version|execution plans?\b|unable to find an engine|NCCL error|nccl\w+Error|NVML_"
    r"|NVRTC_?ERROR|nvrtc: error|libnvrtc",
    re.IGNORECASE,
)
# Of a convolution torch tells no more than that it found no engine: most often none fits the memory that is left.
_MEMORY = re.compile(
    r"out of memory|ALLOC(ATION)?_FAILED|CUBLAS_STATUS_NOT_INITIALIZED|unable to find an engine", re.IGNORECASE
)
_UNSUPPORTED = re.compile(
    r"no kernel image|device kernel image is invalid|invalid device function|NOT_SUPPORTED|ARCH_MISMATCH"
    r"|operation not supported(?! on global)|unsupported toolchain|execution plans?\b|out of resource"
    r"|too many resources|SUBLIBRARY_LOADING_FAILED|VERSION_MISMATCH|cuDNN version|libnvrtc|compiler library not found",
    re.IGNORECASE,
)
_WRONG_INPUT = re.compile(r"invalid configuration argument|invalid argument|INVALID_VALUE|BAD_PARAM", re.IGNORECASE)


def fault_of(error: BaseException) -> Fault | None:
    """Return what an error means for the device; None: it is none of the device's, or of what it was given.

    Words can mislead: whoever goes on after an error tries the device (`try_device`).
    """
    if isinstance(error, BrokenDeviceError):
        return Fault.BROKEN
    if isinstance(error, torch.OutOfMemoryError):
        return Fault.MEMORY
    told = str(error)
    of_triton = type(error).__module__.startswith("triton.")  # which has no common base for its errors
    of_torch = isinstance(error, torch.AcceleratorError)
    if not (of_torch or of_triton or (isinstance(error, RuntimeError) and _OF_DEVICE.search(told))):
        return None
    if _MEMORY.search(told):
        return Fault.MEMORY
    if _WRONG_INPUT.search(told):
        return None
    return Fault.UNSUPPORTED if of_triton or _UNSUPPORTED.search(told) else Fault.BROKEN


def try_device(device: torch.device) -> None:
    """Have the device multiply two small matrices; one whose memory is full at the moment is not broken.

    Raises:
        BrokenDeviceError: it can't.
    """
    try:
        multiply(device)
    except RuntimeError as error:
        if isinstance(error, BrokenDeviceError):
            raise
        if fault_of(error) is Fault.MEMORY:
            return
        raise BrokenDeviceError(f"the device can't even multiply two small matrices: {error}") from error


def multiply(device: torch.device) -> None:
    """Multiply two small matrices, and wait for it; raises whatever the device does.

    Raises:
        BrokenDeviceError: the product is wrong.
    """
    ones = torch.ones(16, 16, device=device)
    if not bool((ones @ ones == 16).all()):
        raise BrokenDeviceError("the device multiplies two small matrices wrongly")
