"""An S3 that answers and takes no image: its disk is full, a quota is used up, or writing is not allowed."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import torch
from botocore.exceptions import ClientError
from fastapi.testclient import TestClient

from api.app import create_app
from bench.chaos.accounting import wait_for
from bench.chaos.s3_proxy import S3Proxy
from cli.stack import Stack, ports
from jobs.objects.images import ImageStore
from jobs.record import JobStatus
from jobs.store.dead_letters import DeadLetters
from pipeline import Generation
from support.operating import Service, service
from worker.delivery import Delivery
from worker.held import HeldJob

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
    proxy.refuse(status, "PUT")
    images.check()  # it answers
    with pytest.raises(ClientError):
        delivery.deliver(held, DRAWN)
    assert not delivery.ready()
    proxy.refuse(None)
    assert delivery.ready()
    assert list(own.images.uploads()) == [[]]  # nothing of the question stays


def test_a_dead_letter_whose_removal_has_begun_is_not_retried(own: Service, proxy: S3Proxy) -> None:
    job_id = own.dead_letter(owner="anonymous")
    settings = own.settings.model_copy(update={"s3_endpoint": proxy.url})
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as http:
        proxy.refuse(403)
        assert http.delete(f"/v1/jobs/{job_id}").status_code == 503
        assert DeadLetters(own.redis, own.settings).retry(job_id) == "unknown"  # it would lose its images
        assert http.get(f"/v1/jobs/{job_id}").json()["status"] == "failed"
        proxy.refuse(None)
        assert http.delete(f"/v1/jobs/{job_id}").status_code == 204


def test_what_was_uploaded_of_a_job_that_is_canceled_is_removed(own: Service, proxy: S3Proxy, tmp_path: Path) -> None:
    def uploaded() -> list[str]:
        return [thing.key for page in own.images.uploads() for thing in page]

    port = str(ports.assign(tmp_path / "ports.json", ["worker"])["worker"])
    environ = {**os.environ, **own.environ, "ZIMAGE_S3_ENDPOINT": proxy.url, "ZIMAGE_METRICS_PORT": port}
    job_id = own.submit(num_images=2, num_inference_steps=1)
    proxy.refuse(503, "PUT .*/1.png")
    with subprocess.Popen([sys.executable, "-m", "cli.main", "worker"], env=environ) as worker:
        try:
            wait_for(lambda: uploaded() == [own.images.key(job_id, 1, 0)], 60, "one image, and no other one")
            own.cancel(job_id)
            wait_for(lambda: own.job(job_id).status == JobStatus.CANCELED, 60, "the end of the job")
            wait_for(lambda: uploaded() == [], 60, "the removal of its image")
        finally:
            worker.terminate()
