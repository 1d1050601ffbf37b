"""What S3's errors mean: whether it says no or not now, and what an operator can do."""

import re
from collections.abc import Mapping
from typing import Any

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    LoginError,
    MetadataRetrievalError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    SSOError,
    TokenRetrievalError,
)
from botocore.exceptions import ConnectionError as UnreachableError

from jobs.addresses import authorities

STORAGE_ERRORS = (BotoCoreError, ClientError)  # all that a request to S3 raises
_NO_KEYS = (CredentialRetrievalError, LoginError, MetadataRetrievalError, SSOError, TokenRetrievalError)

# The permission of AWS' policies without which an operation is refused.
_PERMISSIONS = {
    "DeleteObject": "s3:DeleteObject",
    "DeleteObjects": "s3:DeleteObject",
    "GetObject": "s3:GetObject",
    "HeadBucket": "s3:ListBucket",
    "ListObjects": "s3:ListBucket",
    "ListObjectsV2": "s3:ListBucket",
    "PutObject": "s3:PutObject",
}

_REGION = "set ZIMAGE_S3_REGION to the bucket's region"
_BUCKET = "make the bucket, or see ZIMAGE_S3_BUCKET and ZIMAGE_S3_ENDPOINT"
_BUSY = "it is busy: try again later"
_FULL = "make room, or raise the quota"

# Codes of AWS, MinIO, Ceph, Garage, R2 and Google; the status where the answer had no body.
_ADVICE = {
    "AuthorizationHeaderMalformed": _REGION,
    "IllegalLocationConstraintException": _REGION,
    "InvalidRegionName": _REGION,
    "PermanentRedirect": _REGION,
    "InvalidAccessKeyId": "see AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "see AWS_SECRET_ACCESS_KEY; a proxy in front of S3 must pass Host and path on as they are",
    "ExpiredToken": "see AWS_SESSION_TOKEN",
    "InvalidToken": "see AWS_SESSION_TOKEN",
    "RequestTimeTooSkewed": "set this machine's clock right",
    "NoSuchBucket": _BUCKET,
    "404": _BUCKET,
    "EntityTooLarge": "raise the size that the store, or a proxy in front of it, takes",
    "413": "raise the size that the store, or a proxy in front of it, takes",
    "QuotaExceeded": _FULL,
    "XMinioAdminBucketQuotaExceeded": _FULL,
    "XMinioStorageFull": _FULL,
    "507": _FULL,
    "SlowDown": _BUSY,
    "429": _BUSY,
    "503": _BUSY,
}

_TOO_LARGE = ("EntityTooLarge", "413")

# They go by themselves, whatever status they come with.
_BUSY_CODES = frozenset({"ServiceUnavailable", "SlowDown", "Throttling", "TooManyRequests"})
_PASSING = _BUSY_CODES | {"InternalError", "OperationAborted", "RequestTimeout", "RequestTimeTooSkewed"}
_BUSY_STATUSES = (429, 503)
_PASSING_STATUSES = (408, 409, 429)


def told(error: Exception) -> str:
    """Return what to tell an operator of an error of S3: what it said, and what to do."""
    if isinstance(error, ClientError):
        details: Mapping[str, Any] = error.response.get("Error", {})
        advice = advise(code_of(error), error.operation_name, details.get("Region"))
    elif isinstance(error, NoCredentialsError | PartialCredentialsError):
        advice = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    elif isinstance(error, ParamValidationError):  # of what we pass, the bucket's name alone comes from outside
        advice = "see ZIMAGE_S3_BUCKET"
    elif isinstance(error, _NO_KEYS):
        advice = "see boto3's AWS_… variables and files"
    elif isinstance(error, UnreachableError | HTTPClientError):
        advice = authorities.advice(error) or "see ZIMAGE_S3_ENDPOINT"
    else:
        advice = ""
    said = re.sub(r"\s+", " ", str(error)).rstrip(" .:")  # some say it in several lines, some nothing after a colon
    said = re.sub(r"://[^\"]*@", "://***@", said)  # a proxy's address may hold a password
    return f"{said}: {advice}" if advice else said


def advise(code: str, operation: str, region: str | None = None) -> str:
    """Return what to do about an error; empty where only S3's own words help.

    Args:
        code: of the error.
        operation: that was asked for, as S3's API names it.
        region: that S3 named.
    """
    if code in ("AccessDenied", "403"):
        return f"allow {_PERMISSIONS.get(operation, 'it')} for the key in AWS_ACCESS_KEY_ID"
    advice = _ADVICE.get(code, "")
    return f"set ZIMAGE_S3_REGION={region}" if advice == _REGION and region else advice


def code_of(error: Exception) -> str:
    """Return the code of S3's answer, its status where it had none; empty where S3 did not answer."""
    if not isinstance(error, ClientError):
        return ""
    code = error.response.get("Error", {}).get("Code")  # of a proxy's page in HTML it is empty
    return str(code or _status_of(error) or "")


def is_lasting(error: ClientError) -> bool:
    """Tell whether S3 said no, rather than not now."""
    status = _status_of(error) or 400
    passing = status in _PASSING_STATUSES or (status >= 500 and status != 501)
    return not passing and code_of(error) not in _PASSING


def is_busy(error: ClientError) -> bool:
    """Tell whether S3 is asked too much."""
    return _status_of(error) in _BUSY_STATUSES or code_of(error) in _BUSY_CODES


def _status_of(error: ClientError) -> int | None:
    """Return the answer's status, None of an error of one object of a list."""
    status: int | None = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status


def is_too_large(error: Exception) -> bool:
    """Tell whether it is the one object that S3 refuses, since it is too large."""
    return code_of(error) in _TOO_LARGE
