"""`zimage prune`: what it removes from the bucket, and when it rather removes nothing."""

import time
from collections.abc import Iterator
from typing import Any

import boto3
import pytest

from cli.stack import Stack
from jobs.objects.removal import MOST_KEYS
from jobs.record import JobError
from support.operating import Service, service

NOW = ["prune", "--older-than", "0"]
UNKNOWN = "job_00000000000000000000000000000000"
FAILURE = JobError(code="out_of_memory", message="too large", retryable=False)


@pytest.fixture
def own(servers: Stack, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    for name, value in servers.environ().items():
        monkeypatch.setenv(name, value)  # the bucket's key pair
    with service(servers) as running:
        yield running
        running.images.removal.remove(stored["Key"] for stored in bucket(running))


def s3(own: Service) -> Any:
    return boto3.client("s3", endpoint_url=own.settings.s3_endpoint, region_name="us-east-1")


def bucket(own: Service) -> list[dict[str, Any]]:
    pages = s3(own).get_paginator("list_objects_v2").paginate(Bucket="zimage", Prefix=own.settings.s3_prefix)
    return [item for page in pages for item in page.get("Contents", [])]


def uploads(own: Service) -> set[tuple[str, str]]:
    """Return job and attempt of what is in the bucket."""
    return {(key.split("/")[1], key.split("/")[2]) for key in (stored["Key"] for stored in bucket(own))}


def succeeded(own: Service) -> str:
    """Return a job whose third attempt won."""
    job_id = own.submit()
    for attempt in (1, 2, 3):
        claim = own.claim()
        own.upload(job_id, attempt)
        if attempt < 3:
            own.worker.requeue(claim)
    assert own.commit(claim) == "succeeded"
    return job_id


def test_what_redis_does_not_know_goes_and_what_it_knows_stays(own: Service) -> None:
    kept = succeeded(own)
    own.zimage(*NOW)
    own.upload(UNKNOWN, 1)
    own.upload(UNKNOWN, 2)
    told = own.zimage_json(*NOW)
    assert told == {
        "all": {"objects": 4, "bytes": 10},
        "unknown_jobs": {"objects": 4, "bytes": 10},
        "lost_attempts": {"objects": 0, "bytes": 0},
    }
    assert uploads(own) == {(kept, "3")}


def test_an_ended_job_keeps_the_attempt_that_won(own: Service) -> None:
    job_id = succeeded(own)
    told = own.zimage(*NOW).stdout
    assert told == (
        "removed: 4 objects (10 bytes): 0 objects (0 bytes) of jobs that Redis doesn't know, "
        "4 objects (10 bytes) of lost attempts\n"
    )
    prefix = f"{own.settings.s3_prefix}/{job_id}/3"
    assert {stored["Key"] for stored in bucket(own)} == {f"{prefix}/0.png", f"{prefix}/job.json"}


@pytest.mark.parametrize("ending", ["failed", "canceled", "expired"])
def test_a_job_that_ended_without_images_keeps_nothing(own: Service, ending: str) -> None:
    kept = succeeded(own)
    job_id = own.submit(timeout_seconds=1 if ending == "expired" else None)
    claim = own.claim()
    own.upload(job_id, 1)
    match ending:
        case "failed":
            own.worker.fail(claim, FAILURE)
        case "canceled":
            own.cancel(job_id)
            own.worker.requeue(claim)
        case "expired":
            own.worker.requeue(claim)
            time.sleep(1.1)
            own.worker.expire()
    assert own.job(job_id).status == ending
    own.zimage(*NOW)
    assert uploads(own) == {(kept, "3")}


def test_an_active_job_keeps_its_latest_attempt(own: Service) -> None:
    running, queued = own.submit(), own.submit()
    first = own.claim()
    own.worker.requeue(first)
    own.upload(running, 1)
    own.claim()
    own.upload(running, 2)  # now drawing
    own.worker.requeue(own.claim())
    own.upload(queued, 1)  # its worker may hold the images through an outage of Redis
    own.zimage(*NOW)
    assert uploads(own) == {(running, "2"), (queued, "1")}


def test_what_is_young_is_left_alone(own: Service) -> None:
    succeeded(own)
    own.upload(UNKNOWN, 1)
    before = bucket(own)
    assert own.zimage_json("prune")["all"] == {"objects": 0, "bytes": 0}
    assert bucket(own) == before


def test_keys_that_are_not_of_attempts_are_never_touched(own: Service) -> None:
    succeeded(own)
    prefix = own.settings.s3_prefix
    others = [
        f"{prefix}/readme.txt",
        f"{prefix}/job_x.txt",
        f"{prefix}/{UNKNOWN}/notes.txt",
        f"{prefix}/{UNKNOWN}/1.png",
        f"{prefix}/{UNKNOWN}/one/0.png",
        f"{prefix}/doctor-1/1/0.png",
        f"{prefix}/old/{UNKNOWN}/1/0.png",
        f"{prefix}-old/{UNKNOWN}/1/0.png",
    ]
    client = s3(own)
    for key in others:
        client.put_object(Bucket="zimage", Key=key, Body=b"mine")
    own.upload(UNKNOWN, 1)
    own.zimage(*NOW)
    left = {stored["Key"] for stored in bucket(own)}
    assert left >= set(others)
    assert not {key for key in left - set(others) if UNKNOWN in key}


def test_a_dry_run_tells_and_removes_nothing(own: Service) -> None:
    succeeded(own)
    own.upload(UNKNOWN, 1)
    before = bucket(own)
    told = own.zimage(*NOW, "--dry-run").stdout
    assert told == (
        "would be removed: 6 objects (15 bytes): 2 objects (5 bytes) of jobs that Redis doesn't know, "
        "4 objects (10 bytes) of lost attempts\n"
    )
    assert bucket(own) == before


def test_without_redis_nothing_is_removed(own: Service) -> None:
    own.upload(UNKNOWN, 1)
    done = own.zimage(*NOW, "--even-all", ZIMAGE_REDIS_URL="redis://127.0.0.1:1/0")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("zimage: Redis at 127.0.0.1:1 (ZIMAGE_REDIS_URL): ")
    assert uploads(own) == {(UNKNOWN, "1")}


def test_a_redis_that_knows_none_of_the_jobs_is_taken_for_the_wrong_one(own: Service, servers: Stack) -> None:
    kept = succeeded(own)
    with service(servers) as another:
        another.submit()
        environ = {"ZIMAGE_REDIS_PREFIX": another.settings.redis_prefix}
        for arguments in (NOW, [*NOW, "--dry-run"]):
            done = own.zimage(*arguments, **environ)
            assert (done.returncode, done.stdout) == (1, "")
            assert "ZIMAGE_REDIS_PREFIX" in done.stderr
            assert "--even-all" in done.stderr
        assert (kept, "3") in uploads(own)
        assert own.zimage(*NOW, "--even-all", **environ).returncode == 0
        assert uploads(own) == set()


def test_an_empty_bucket_is_no_reason_to_refuse(own: Service) -> None:
    assert own.zimage(*NOW).returncode == 0


def test_storage_that_refuses_is_told_in_one_line(own: Service) -> None:
    done = own.zimage(*NOW, ZIMAGE_S3_BUCKET="nowhere")
    assert (done.returncode, done.stdout) == (1, "")
    assert "ZIMAGE_S3_ENDPOINT" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_more_orphans_than_one_request_names(own: Service) -> None:
    kept = succeeded(own)
    for attempt in range(MOST_KEYS // 2 + 1):
        own.upload(UNKNOWN, attempt)
    assert own.zimage_json(*NOW)["unknown_jobs"]["objects"] == MOST_KEYS + 2
    assert uploads(own) == {(kept, "3")}


def test_the_servers_of_a_running_stack_are_found_by_its_directory(own: Service, servers: Stack) -> None:
    elsewhere = {"ZIMAGE_REDIS_URL": "redis://127.0.0.1:1/0", "AWS_ACCESS_KEY_ID": "another", "AWS_PROFILE": "another"}
    job_id = own.dead_letter(webhook_url="https://hooks.example/")
    own.upload(UNKNOWN, 1)
    here = ["--data", str(servers.data_dir)]
    assert job_id in own.zimage("dead", "list", *here, **elsewhere).stdout
    assert "https://hooks.example/" in own.zimage("webhooks", "list", *here, **elsewhere).stdout
    assert own.zimage(*NOW, "--even-all", *here, **elsewhere).returncode == 0
    assert bucket(own) == []
    nowhere = own.zimage("dead", "list", "--data", "/nowhere")
    assert (nowhere.returncode, nowhere.stderr.count("\n")) == (1, 1)
    assert "no stack runs on /nowhere" in nowhere.stderr
