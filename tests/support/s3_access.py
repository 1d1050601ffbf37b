"""What asks S3 with which key pair: boto3's client for tests, and our own code in this process."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import boto3
import pytest
from botocore.config import Config

from cli.stack import Stack


def key_pair(servers: Stack) -> tuple[str, str]:
    """Return the pair that may use the servers' bucket."""
    environ = servers.environ()
    return environ["AWS_ACCESS_KEY_ID"], environ["AWS_SECRET_ACCESS_KEY"]


def s3_client(url: str, key_id: str, key: str, attempts: int = 1) -> Any:
    """Return boto3's client, whose type comes from stubs that only the checks install."""
    config = Config(signature_version="s3v4", retries={"total_max_attempts": attempts})
    return boto3.client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id=key_id,
        aws_secret_access_key=key,
        config=config,
    )


@contextmanager
def s3_keys(key_id: str = "someone", key: str = "something") -> Iterator[None]:
    """Let our own code sign with this pair for as long as it is open."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("boto3.DEFAULT_SESSION", None)  # it keeps credentials
        patch.setenv("AWS_ACCESS_KEY_ID", key_id)
        patch.setenv("AWS_SECRET_ACCESS_KEY", key)
        yield
