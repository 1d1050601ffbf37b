"""An S3 that answers and takes no image: its disk is full, a quota is used up, or writing is not allowed.

The whole service runs on the most awkward store.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
import torch
from botocore.exceptions import ClientError
from fastapi.testclient import TestClient

from api.app import create_app
from bench.chaos.accounting import wait_for
from cli.stack import Stack, ports
from jobs.objects.images import ImageStore
from jobs.objects.refusals import STORAGE_ERRORS
from jobs.record import JobStatus
from jobs.store.dead_letters import DeadLetters
from pipeline import Generation
from support.operating import Service, service
from support.s3_access import key_pair
from support.stores import Google, Store, standing_before
from worker.delivery import Delivery
from worker.held import HeldJob

DRAWN = Generation(torch.zeros(1, 64, 64, 3, dtype=torch.uint8), {}, 0, [], 1, 0, [0.0])


@pytest.fixture
def own(servers: Stack) -> Iterator[Service]:
    with service(servers) as running:
        yield running


@pytest.fixture
def store(servers: Stack) -> Iterator[Store]:
    with standing_before(servers, Store) as running:
        yield running


@pytest.mark.parametrize("status", [403, 503])
def test_nothing_is_claimed_until_s3_takes_images_again(
    own: Service, store: Store, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.delivery.STORAGE_PAUSE", 0.05)
    images = ImageStore(own.settings.model_copy(update={"s3_endpoint": store.url}), attempts=1)
    delivery = Delivery(images, "tiny", seconds=0.1)
    own.submit()
    held = HeldJob(own.claim())
    store.refuse(status, "PUT")
    images.check()  # it answers
    with pytest.raises(ClientError):
        delivery.deliver(held, DRAWN)
    assert not delivery.ready()
    assert str(delivery.trouble()).startswith("S3 (ZIMAGE_S3_ENDPOINT) takes no images: ")
    store.refuse(None)
    wait_for(delivery.ready, 30, "S3 takes images")
    assert delivery.trouble() is None
    assert list(own.images.uploads()) == [[]]  # nothing of the question stays


def test_a_helper_for_credentials_that_fails_for_a_while_is_waited_for(
    own: Service, servers: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.delivery.STORAGE_PAUSE", 0.05)
    key, secret = key_pair(servers)
    expiration = datetime.now(UTC) + timedelta(minutes=5)  # so soon that each request asks anew
    credentials = {"Version": 1, "AccessKeyId": key, "SecretAccessKey": secret, "Expiration": expiration.isoformat()}
    told, config = tmp_path / "credentials.json", tmp_path / "config"
    told.write_text(json.dumps(credentials))
    config.write_text(f"[default]\ncredential_process = cat {told}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)
    delivery = Delivery(ImageStore(own.settings, attempts=1), "tiny", seconds=0.1)
    own.submit()
    held = HeldJob(own.claim())
    told.write_text("your session has expired")
    with pytest.raises(STORAGE_ERRORS):
        delivery.deliver(held, DRAWN)
    assert not delivery.ready()
    told.write_text(json.dumps(credentials))
    wait_for(delivery.ready, 30, "S3 takes images")


def test_a_dead_letter_whose_removal_has_begun_is_not_retried(own: Service, store: Store) -> None:
    job_id = own.dead_letter(owner="anonymous")
    settings = own.settings.model_copy(update={"s3_endpoint": store.url})
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as http:
        store.refuse(403)
        assert http.delete(f"/v1/jobs/{job_id}").status_code == 503
        assert DeadLetters(own.redis, own.settings).retry(job_id) == "unknown"  # it would lose its images
        assert http.get(f"/v1/jobs/{job_id}").json()["status"] == "failed"
        store.refuse(None)
        assert http.delete(f"/v1/jobs/{job_id}").status_code == 204


@pytest.fixture(scope="module")
def running(servers: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """API and worker, on a store that removes one by one and is busy now and then."""
    port = str(ports.assign(tmp_path_factory.mktemp("worker") / "ports.json", ["worker"])["worker"])
    with standing_before(servers, Google) as store, service(servers) as own:
        environ = {**own.environ, "ZIMAGE_S3_ENDPOINT": store.url, "ZIMAGE_LEASE_SECONDS": "3"}
        settings = own.settings.model_copy(update={"s3_endpoint": store.url, "lease_seconds": 3.0})
        command = [sys.executable, "-m", "cli.main", "worker"]
        with (
            TestClient(create_app(settings), base_url="http://127.0.0.1") as http,
            subprocess.Popen(command, env={**os.environ, **environ, "ZIMAGE_METRICS_PORT": port}) as worker,
        ):
            try:
                yield SimpleNamespace(own=own, store=store, http=http, worker=f"http://127.0.0.1:{port}")
            finally:
                worker.terminate()


def test_a_store_that_takes_no_image_is_told_until_it_does(running: SimpleNamespace) -> None:
    own, store = running.own, running.store

    def uploaded() -> list[str]:
        return [thing.key for page in own.images.uploads() for thing in page]

    def readiness() -> tuple[int, int]:
        return httpx.get(f"{running.worker}/readyz").status_code, running.http.get("/readyz").status_code

    job_id = own.submit(num_images=2, num_inference_steps=1)
    store.refuse(503, "PUT .*/(1.png|probe)")
    wait_for(lambda: uploaded() == [own.images.key(job_id, 1, 0)], 60, "one image, and no other one")
    own.cancel(job_id)
    wait_for(lambda: own.job(job_id).status == JobStatus.CANCELED, 60, "the end of the job")
    wait_for(lambda: uploaded() == [], 60, "the removal of its image")
    wait_for(lambda: readiness() == (503, 503), 60, "a worker that says that it can't deliver")
    assert httpx.get(f"{running.worker}/readyz").text.startswith("stuck: S3 (ZIMAGE_S3_ENDPOINT) takes no images: ")
    assert "no worker can deliver: S3 (ZIMAGE_S3_ENDPOINT)" in running.http.get("/readyz").json()["detail"]
    store.refuse(None)
    wait_for(lambda: readiness() == (200, 200), 60, "a worker that is ready again, with no job to try it by")


def test_pictures_are_drawn_and_removed_on_the_most_awkward_store(running: SimpleNamespace) -> None:
    wanted = {"prompt": "a red circle", "width": 64, "height": 64, "num_inference_steps": 1}
    job_id = running.http.post("/v1/jobs", json=wanted).json()["id"]
    wait_for(lambda: running.own.job(job_id).status == JobStatus.SUCCEEDED, 60, "a picture")
    url = running.http.get(f"/v1/jobs/{job_id}").json()["images"][0]["url"]
    assert httpx.get(url).content.startswith(b"\x89PNG")
    assert running.http.get("/readyz").json() == {"status": "ok", "workers": 1}
    assert running.http.delete(f"/v1/jobs/{job_id}").status_code == 204
    assert httpx.get(url).status_code == 404
    assert running.http.get(f"/v1/jobs/{job_id}").status_code == 410
