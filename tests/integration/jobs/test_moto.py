"""moto's server, an S3 for tests: what the service asks of any S3, asked of it."""

from collections.abc import Iterator

import boto3
import pytest
from moto.server import ThreadedMotoServer

from jobs.objects.images import ImageStore
from jobs.settings import Settings
from support.store_contract import put_list_get_and_remove


@pytest.fixture
def images(monkeypatch: pytest.MonkeyPatch) -> Iterator[ImageStore]:
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)  # it keeps credentials
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "something")
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    settings = Settings(s3_endpoint=f"http://127.0.0.1:{port}")
    boto3.client("s3", endpoint_url=settings.s3_endpoint, region_name=settings.s3_region).create_bucket(
        Bucket=settings.s3_bucket
    )
    yield ImageStore(settings)
    server.stop()


def test_moto_is_spoken(images: ImageStore) -> None:
    put_list_get_and_remove(images)
