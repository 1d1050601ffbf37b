"""Errors of the device: which they are, what a client is told of them, and after which the process is of no use."""

import torch

from jobs.record import JobError


def breaks_device(error: BaseException) -> bool:
    """Tell whether an error leaves the process unable to use its GPU: CUDA errors other than memory are sticky."""
    if isinstance(error, torch.OutOfMemoryError):
        return False
    return isinstance(error, torch.AcceleratorError) or (isinstance(error, RuntimeError) and "CUDA error" in str(error))


def device_error(error: Exception) -> JobError | None:
    """Return what a client is told of an error of the device; None of any other error."""
    if isinstance(error, torch.OutOfMemoryError):
        message = "the GPU has too little memory for this job: ask for a smaller size"
        return JobError(code="out_of_memory", message=message, retryable=False)
    if breaks_device(error):
        return JobError(code="device_error", message="the GPU failed while drawing this job", retryable=True)
    return None
