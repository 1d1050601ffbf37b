"""What an operator is told of S3's errors, and whether it is of use to ask again."""

import pytest
from botocore.exceptions import (
    ClientError,
    CredentialRetrievalError,
    EndpointConnectionError,
    NoCredentialsError,
    SSLError,
)

from jobs.objects.refusals import is_lasting, told

SIGNED_BY_NOBODY = "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: unable to get local issuer certificate"


def refusal(code: str, status: int = 400, operation: str = "PutObject", **more: str) -> ClientError:
    error = {"Code": code, "Message": "so it is.\n  Really.", **more}
    return ClientError({"Error": error, "ResponseMetadata": {"HTTPStatusCode": status}}, operation)


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (refusal("AccessDenied", 403), "allow s3:PutObject for the key in AWS_ACCESS_KEY_ID"),
        (refusal("AccessDenied", 403, "DeleteObject"), "allow s3:DeleteObject for the key in AWS_ACCESS_KEY_ID"),
        (refusal("403", 403, "ListObjectsV2"), "allow s3:ListBucket for the key in AWS_ACCESS_KEY_ID"),
        (refusal("InvalidAccessKeyId", 403), "see AWS_ACCESS_KEY_ID"),
        (refusal("RequestTimeTooSkewed", 403), "set this machine's clock right"),
        (refusal("AuthorizationHeaderMalformed", Region="garage"), "set ZIMAGE_S3_REGION=garage"),
        (refusal("InvalidRegionName"), "set ZIMAGE_S3_REGION to the bucket's region"),
        (refusal("NoSuchBucket", 404), "make the bucket, or see ZIMAGE_S3_BUCKET and ZIMAGE_S3_ENDPOINT"),
        (refusal("", 413), "raise the size that the store, or a proxy in front of it, takes"),  # a proxy's page
        (refusal("XMinioStorageFull", 507), "make room, or raise the quota"),
        (NoCredentialsError(), "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        (EndpointConnectionError(endpoint_url="http://s3"), "see ZIMAGE_S3_ENDPOINT"),
        (CredentialRetrievalError(provider="sso", error_msg="ended"), "see boto3's AWS_… variables and files"),
        (SSLError(endpoint_url="https://s3", error=SIGNED_BY_NOBODY), "certificate in ZIMAGE_CA_BUNDLE"),
    ],
)
def test_an_error_of_s3_is_one_line_that_ends_with_what_to_do(error: Exception, advice: str) -> None:
    line = told(error)
    assert line.endswith(advice)
    assert ": " in line
    assert "::" not in line.replace(": ", ":")
    assert line.count("see ZIMAGE") <= 1
    assert "\n" not in line


def test_an_error_that_nobody_foresaw_is_told_in_s3_s_own_words() -> None:
    assert told(refusal("OddRequest")).endswith("(OddRequest) when calling the PutObject operation: so it is. Really")


@pytest.mark.parametrize(
    ("error", "lasting"),
    [
        (refusal("AccessDenied", 403), True),
        (refusal("MethodNotAllowed", 405), True),
        (refusal("NotImplemented", 501), True),
        (refusal("InvalidArgument", 400), True),
        (ClientError({"Error": {"Code": "AccessDenied"}}, "DeleteObjects"), True),  # one object's of a list
        (ClientError({"Error": {"Code": "InternalError"}}, "DeleteObjects"), False),
        (refusal("SlowDown", 503), False),
        (refusal("SlowDown", 400), False),
        (refusal("429", 429), False),
        (refusal("OperationAborted", 409), False),
        (refusal("RequestTimeout", 400), False),
        (refusal("502", 502), False),
    ],
)
def test_no_is_told_from_not_now(error: ClientError, lasting: bool) -> None:
    assert is_lasting(error) == lasting


def test_a_password_in_the_endpoint_is_not_repeated() -> None:
    error = EndpointConnectionError(endpoint_url="https://me:p/a@ss@s3.example/zimage")
    assert "https://***@s3.example/zimage" in told(error)


def test_an_answer_without_words_leaves_no_colon_behind() -> None:
    error = ClientError({"Error": {"Code": "403", "Message": ""}}, "HeadBucket")
    assert told(error).endswith("HeadBucket operation: allow s3:ListBucket for the key in AWS_ACCESS_KEY_ID")
