"""Connections to S3, set up so that a dead one is noticed within seconds and that stores other than AWS understand."""

from typing import Any

import boto3
from botocore.config import Config

from jobs.settings import Settings

ATTEMPTS = 5  # at a request, unless the caller tries again by itself


def connect(settings: Settings, endpoint: str | None, attempts: int = ATTEMPTS) -> Any:
    """Return a client for the S3 at `endpoint`, None for AWS; it connects at its first request.

    Its type is Any, since the typed client comes from stubs that only the checks install.
    """
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name=settings.s3_region,
        config=Config(
            signature_version="s3v4",
            s3={"addressing_style": "path" if endpoint else "auto"},
            connect_timeout=3,
            read_timeout=10,
            max_pool_connections=32,
            retries={"mode": "standard", "total_max_attempts": attempts},
            # Stores other than AWS don't all know the newer default checksums.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )
