"""What `ZIMAGE_S3_REGION` takes: what boto3 can sign for."""

import pytest
from botocore.utils import validate_region_name
from pydantic import ValidationError

from jobs.settings import Settings


@pytest.mark.parametrize("region", ["us-east-1", "auto", "garage", "RegionOne", "eu-frankfurt-1"])
def test_a_region_s_name_is_taken(region: str) -> None:
    validate_region_name(Settings(s3_region=region).s3_region)


@pytest.mark.parametrize("region", ["", "eu central", "us-east-1/", "-garage", "https://s3.example", "123", "r" * 64])
def test_what_no_request_can_be_signed_for_is_refused_at_start(region: str) -> None:
    with pytest.raises(ValidationError, match="must be the name of a region, as us-east-1"):
        Settings(s3_region=region)
