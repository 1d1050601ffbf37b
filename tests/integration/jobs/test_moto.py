"""moto's server, an S3 for tests: what the service asks of any S3, asked of it."""

from collections.abc import Iterator

import pytest
from moto.server import ThreadedMotoServer

from jobs.objects.images import ImageStore
from jobs.objects.s3_client import connect
from jobs.settings import Settings
from support.s3_access import s3_keys
from support.store_contract import put_list_get_and_remove


@pytest.fixture
def images() -> Iterator[ImageStore]:
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    settings = Settings(s3_endpoint=f"http://127.0.0.1:{port}")
    with s3_keys():
        connect(settings, settings.s3_endpoint).create_bucket(Bucket=settings.s3_bucket)
        yield ImageStore(settings)
    server.stop()


def test_moto_is_spoken(images: ImageStore) -> None:
    put_list_get_and_remove(images)
