"""An S3 that answers and takes no image: its disk is full, a quota is used up, or writing is not allowed."""

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
import torch
from botocore.exceptions import ClientError
from operating import Service, service

from bench.s3_proxy import S3Proxy
from cli.stack import Stack
from jobs.images import ImageStore
from pipeline import Generation
from worker.delivery import Delivery
from worker.lease import HeldJob

DRAWN = Generation(torch.zeros(1, 64, 64, 3, dtype=torch.uint8), {}, 0, [], 1, 0)


@pytest.fixture
def own(servers: Stack, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)  # it keeps credentials
    for name, value in servers.environ().items():
        monkeypatch.setenv(name, value)  # the bucket's key pair
    with service(servers) as running:
        yield running


@pytest.fixture
def proxy(servers: Stack) -> Iterator[S3Proxy]:
    port = urlsplit(servers.s3_url).port
    assert port
    running = S3Proxy(lambda: port)
    yield running
    running.close()


@pytest.mark.parametrize("status", [403, 503])
def test_nothing_is_claimed_until_s3_takes_images_again(own: Service, proxy: S3Proxy, status: int) -> None:
    images = ImageStore(own.settings.model_copy(update={"s3_endpoint": proxy.url}), attempts=1)
    delivery = Delivery(images, "tiny", seconds=0.1)
    own.submit()
    held = HeldJob(own.claim())
    proxy.refuse(status, {"PUT"})
    images.check()  # it answers
    with pytest.raises(ClientError):
        delivery.deliver(held, DRAWN)
    assert not delivery.ready()
    proxy.refuse(None)
    assert delivery.ready()
    assert list(own.images.uploads()) == [[]]  # nothing of the question stays
