"""The key pair that boto3 signs with in this process."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def s3_keys(key_id: str = "someone", key: str = "something") -> Iterator[None]:
    """Sign with this pair for as long as it is open."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("boto3.DEFAULT_SESSION", None)  # it keeps credentials
        patch.setenv("AWS_ACCESS_KEY_ID", key_id)
        patch.setenv("AWS_SECRET_ACCESS_KEY", key)
        yield
