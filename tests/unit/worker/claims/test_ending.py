"""What a client is told of whatever went wrong with its job."""

import re

import pytest
import torch
from botocore.exceptions import ClientError, EndpointConnectionError

from worker.claims.ending import job_error
from worker.held import StopJobError


@pytest.mark.parametrize(
    ("exception", "code", "retryable"),
    [
        (StopJobError("deadline"), "deadline_exceeded", True),
        (torch.OutOfMemoryError("CUDA out of memory"), "out_of_memory", False),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), "device_error", True),
        (RuntimeError("CUDA error: no kernel image is available for execution on the device"), "device_error", True),
        (ValueError("prompt is empty, expected some text"), "invalid_input", False),
        (EndpointConnectionError(endpoint_url="http://s3"), "storage_unavailable", True),
        (ClientError({"Error": {"Code": "SlowDown"}}, "PutObject"), "storage_unavailable", True),
        (KeyError("unexpected"), "internal_error", True),
    ],
)
def test_each_error_has_its_code(exception: Exception, code: str, retryable: bool) -> None:
    error = job_error(exception)
    assert (error.code, error.retryable) == (code, retryable)


@pytest.mark.parametrize(
    "exception",
    [
        KeyError("secret_place"),
        RuntimeError("CUDA error: secret_place at /opt/service/kernel.cu:12"),
        EndpointConnectionError(endpoint_url="http://secret_place:9000"),
    ],
)
def test_nothing_of_the_service_s_inside_is_told(exception: Exception) -> None:
    message = job_error(exception).message
    assert not re.search(r"secret_place|Error|Exception|None", message), message
