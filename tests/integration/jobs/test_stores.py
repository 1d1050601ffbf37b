"""S3 as stores other than AWS speak it: the service works on each, and says what one refuses."""

import json
import logging
from collections.abc import Iterator
from datetime import timedelta

import pytest
import torch
from botocore.exceptions import ClientError
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from api.app import create_app
from bench.chaos.accounting import wait_for
from cli.main import app
from cli.stack import Stack
from jobs.objects.images import ImageStore
from jobs.objects.pruning import Pruner
from jobs.objects.refusals import told
from jobs.objects.removal import StillThereError
from jobs.objects.retention import Retention
from jobs.settings import Settings
from pipeline import Generation
from support import stores
from support.operating import Service, service
from support.redis_keys import remove_keys
from support.store_contract import put_list_get_and_remove
from support.stores import Store, standing_before
from worker.claims.ending import job_error
from worker.delivery import Delivery, TooLargeError
from worker.held import HeldJob

DRAWN = Generation(torch.zeros(1, 64, 64, 3, dtype=torch.uint8), {}, 0, [], 1, 0, [0.0])
NOISE = Generation(torch.randint(255, (1, 64, 64, 3), dtype=torch.uint8), {}, 0, [], 1, 0, [0.0])


@pytest.fixture(scope="module")
def shared(servers: Stack) -> Iterator[Service]:
    with service(servers) as running:
        yield running


@pytest.fixture
def own(shared: Service) -> Iterator[Service]:
    """An empty service."""
    yield shared
    shared.images.removal.remove(uploaded(shared))
    remove_keys(shared.redis, shared.settings.redis_prefix)


@pytest.fixture
def store(servers: Stack, request: pytest.FixtureRequest) -> Iterator[Store]:
    with standing_before(servers, request.param) as running:
        yield running


def settings_for(own: Service, store: Store) -> Settings:
    return own.settings.model_copy(update={"s3_endpoint": store.url, "s3_region": store.region})


def uploaded(own: Service) -> list[str]:
    """Return what is in the bucket, whatever the store says."""
    return [stored.key for page in own.images.uploads() for stored in page]


def succeeded(own: Service) -> str:
    """Return a job that has its image and its parameters in the bucket, and has ended."""
    job_id = own.submit(owner="anonymous")
    claim = own.claim()
    own.upload(job_id, claim.job.attempt)
    assert own.commit(claim) == "succeeded"
    return job_id


def let_it_be_old(own: Service, job_id: str) -> None:
    own.redis.zadd(f"{own.settings.redis_prefix}ended", {job_id: 0})


def retire(own: Service, images: ImageStore, job_id: str) -> None:
    """Return once retention has removed the job's record."""
    let_it_be_old(own, job_id)
    Retention(own.worker, images).begin()
    wait_for(lambda: not own.redis.exists(f"{own.settings.redis_prefix}job:{job_id}"), 30, "the end of the record")


def doctor(settings: Settings) -> list[tuple[str, str]]:
    """Return the levels and messages of what `zimage doctor` finds of S3."""
    names = {"s3_endpoint", "s3_region", "s3_prefix", "redis_url"}
    environ = {f"ZIMAGE_{name.upper()}": str(getattr(settings, name)) for name in names}
    findings = json.loads(CliRunner(env=environ).invoke(app, ["doctor", "--json"]).stdout)
    return [(finding["level"], finding["message"]) for finding in findings if finding["check"] == "s3"]


@pytest.mark.parametrize("store", stores.NAMED, indirect=True)
def test_each_store_keeps_lists_gives_and_removes(own: Service, store: Store) -> None:
    images = ImageStore(settings_for(own, store))
    put_list_get_and_remove(images)
    assert uploaded(own) == []
    retire(own, images, succeeded(own))
    assert uploaded(own) == []
    findings = doctor(settings_for(own, store))
    assert {level for level, _ in findings} == {"ok"}
    one_by_one_alone = "removed from, one by one; the other way is refused: "
    assert any(one_by_one_alone in message for _, message in findings) == isinstance(store, stores.Google)


@pytest.mark.parametrize("store", [stores.Mute, stores.Broken], indirect=True)
def test_a_store_that_does_not_remove_many_at_once_removes_one_by_one(own: Service, store: Store) -> None:
    own.upload("job_1", 1)
    ImageStore(settings_for(own, store), attempts=1).delete_job("job_1")
    assert uploaded(own) == []


@pytest.mark.parametrize("store", [stores.Late], indirect=True)
def test_what_is_not_listed_yet_is_removed_with_its_job(own: Service, store: Store) -> None:
    job_id = succeeded(own)
    with TestClient(create_app(settings_for(own, store)), base_url="http://127.0.0.1") as http:
        assert http.delete(f"/v1/jobs/{job_id}").status_code == 204
    assert uploaded(own) == []


@pytest.mark.parametrize("store", [Store], indirect=True)
def test_a_key_that_may_not_ask_for_the_bucket_but_list_it_is_enough(own: Service, store: Store) -> None:
    images = ImageStore(settings_for(own, store), attempts=1)
    store.refuse(403, "HEAD")
    images.check()
    store.refuse(403, "(HEAD|GET)")
    with pytest.raises(ClientError, match="AccessDenied"):  # the HEAD itself does not say so
        images.check()


@pytest.mark.parametrize("store", [stores.Garage], indirect=True)
def test_a_wrong_region_is_told_with_the_right_one(own: Service, store: Store) -> None:
    images = ImageStore(own.settings.model_copy(update={"s3_endpoint": store.url}))
    with pytest.raises(ClientError) as refused:
        images.check()
    assert told(refused.value).endswith("set ZIMAGE_S3_REGION=garage")


UNREMOVING = pytest.mark.parametrize("store", [stores.Unremoving, stores.UnremovingAsAws], indirect=True)


@UNREMOVING
def test_a_job_is_kept_whose_images_the_store_refuses_to_remove(own: Service, store: Store) -> None:
    job_id = succeeded(own)
    without = own.submit(owner="anonymous")
    with TestClient(create_app(settings_for(own, store)), base_url="http://127.0.0.1") as http:
        refused = http.delete(f"/v1/jobs/{job_id}")
        assert (refused.status_code, refused.json()["code"]) == (502, "removal_refused")
        assert "zimage doctor" in refused.json()["detail"]
        assert "retry-after" not in refused.headers
        assert http.get(f"/v1/jobs/{job_id}").json()["status"] == "succeeded"
        assert len(uploaded(own)) == 2
        assert http.post(f"/v1/jobs/{without}/cancel").json()["status"] == "canceled"
        assert http.delete(f"/v1/jobs/{without}").status_code == 204
        store.allowing = True
        assert http.delete(f"/v1/jobs/{job_id}").status_code == 204
    assert uploaded(own) == []


@UNREMOVING
def test_retention_leaves_to_prune_what_the_store_refuses_to_remove(
    own: Service, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    images = ImageStore(settings_for(own, store))
    with caplog.at_level(logging.INFO):
        for job_id in (succeeded(own), succeeded(own)):
            retire(own, images, job_id)  # else records would fill Redis
    assert len(uploaded(own)) == 4
    (line,) = [record.message for record in caplog.records if record.name.startswith("jobs.objects")]
    assert line.endswith("AccessDenied: allow s3:DeleteObject for the key in AWS_ACCESS_KEY_ID")
    pruner = Pruner(own.redis, images, own.settings)
    orphans = pruner.find(older_than=timedelta(), even_all=True)
    with pytest.raises(StillThereError, match="s3:DeleteObject"):
        list(pruner.remove(orphans))
    store.allowing = True
    assert sum(len(removed) for removed in pruner.remove(orphans)) == 4


@UNREMOVING
def test_the_doctor_names_what_the_store_refuses(own: Service, store: Store) -> None:
    *_, (level, message) = doctor(settings_for(own, store))
    assert level == "fail"
    assert message.endswith("takes no removals: AccessDenied: allow s3:DeleteObject for the key in AWS_ACCESS_KEY_ID")
    store.allowing = True
    store.refuse(403, "PUT")
    ((level, message),) = doctor(settings_for(own, store))
    assert level == "fail"
    assert "takes no images" in message
    assert message.endswith("allow s3:PutObject for the key in AWS_ACCESS_KEY_ID")


@pytest.mark.parametrize(
    ("store", "level", "said"),
    [
        (stores.Garbling, "fail", "gives back other bytes than it took"),
        (stores.Cutting, "fail", "gives back other bytes than it took"),
        (stores.Optimising, "fail", "answered with other bytes: see ZIMAGE_S3_PUBLIC_ENDPOINT"),
        (stores.Feigning, "fail", "says of an object that it was removed, and still gives it"),
        (stores.Small, "fail", "raise the size that the store, or a proxy in front of it, takes"),
        (stores.Late, "warn", "what was written is not listed yet"),
    ],
    indirect=["store"],
)
def test_the_doctor_looks_at_what_comes_of_each_operation(own: Service, store: Store, level: str, said: str) -> None:
    findings = doctor(settings_for(own, store))
    assert [found for found, message in findings if message.endswith(said)] == [level]


@UNREMOVING
def test_a_store_that_refuses_removals_stops_no_worker(
    own: Service, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.delivery.STORAGE_PAUSE", 0.05)
    delivery = Delivery(ImageStore(settings_for(own, store), attempts=1), "tiny", seconds=0.1)
    own.submit()
    held = HeldJob(own.claim())
    store.refuse(503, "PUT")
    with pytest.raises(ClientError):
        delivery.deliver(held, DRAWN)
    assert not delivery.ready()
    store.refuse(None)
    wait_for(delivery.ready, 30, "S3 takes images again")
    delivery.deliver(held, DRAWN)


@pytest.mark.parametrize("store", [stores.Small], indirect=True)
def test_an_image_that_is_too_large_for_the_store_stops_no_worker(own: Service, store: Store) -> None:
    delivery = Delivery(ImageStore(settings_for(own, store)), "tiny", seconds=300)
    own.submit()
    held = HeldJob(own.claim())
    with pytest.raises(TooLargeError) as refused:
        delivery.deliver(held, NOISE)
    error = job_error(refused.value)
    assert (error.code, error.retryable) == ("storage_unavailable", False)
    assert delivery.ready()
    delivery.deliver(held, DRAWN)
