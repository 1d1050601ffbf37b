"""What clients hear of errors of the device."""

from jobs.record import JobError
from pipeline.faults import Fault, fault_of


def device_error(error: Exception) -> JobError | None:
    """Return what a client is told of an error of the device; None of any other error."""
    match fault_of(error):
        case Fault.MEMORY:
            message = "the GPU has too little memory for this job: ask for a smaller size"
            return JobError(code="out_of_memory", message=message, retryable=False)
        case Fault.BROKEN:
            return JobError(code="device_error", message="the GPU failed while drawing this job", retryable=True)
        case Fault.UNSUPPORTED:
            return JobError(code="device_error", message="this worker's GPU can't draw this job", retryable=True)
    return None
