"""Several workers on one queue: sharing, order, and what happens when one of them dies or freezes."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from cli.stack import Stack
from support.s3_access import key_pair, s3_client
from support.waiting import wait_until

LEASE_SECONDS = 2
SMALL = {"prompt": "a cat", "width": 64, "height": 64, "num_inference_steps": 2}
LONG = {"prompt": "a long job", "width": 384, "height": 384, "num_inference_steps": 40}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack of two workers with short leases and little patience."""
    data: Path = tmp_path_factory.mktemp("pair")
    env = {"ZIMAGE_LEASE_SECONDS": str(LEASE_SECONDS), "ZIMAGE_MAX_WORK": str(1024 * 1024 * 8)}
    with Stack(data, workers=2, env=env) as stack:
        wait_until(lambda: httpx.get(f"{stack.api_url}/v1/queue").json()["workers"] == 2)
        yield stack


@pytest.fixture(scope="module")
def http(pair: Stack) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=pair.api_url, timeout=90) as client:
        yield client


def submit(http: httpx.Client, **fields: Any) -> dict[str, Any]:
    response = http.post("/v1/jobs", json={**SMALL, **fields})
    assert response.status_code == 202, response.text
    job: dict[str, Any] = response.json()
    return job


def read(http: httpx.Client, job: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = http.get(job["urls"]["self"]).json()
    return answer


def wait(http: httpx.Client, job: dict[str, Any]) -> dict[str, Any]:
    ended: dict[str, Any] = http.get(job["urls"]["self"], headers={"Prefer": "wait=60"}).json()
    assert ended["status"] not in ("queued", "running"), ended
    return ended


def worker_pid(pair: Stack, http: httpx.Client, job: dict[str, Any]) -> int:
    """Return the process that draws the job, once it is at work."""
    wait_until(lambda: read(http, job)["progress"]["step"] >= 2)
    name = read(http, job)["worker"]
    (pid,) = [pid for pid in pair.pids()["workers"] if f"-{pid}-" in name]
    return int(pid)


def lost(job: dict[str, Any]) -> float:
    """Return the seconds that attempts took which came to nothing, of an ended job all of whose time is told."""
    *parts, (last, total) = job["timings"].items()
    assert last == "total"
    assert sum(seconds for _, seconds in parts) == pytest.approx(total, abs=1e-6)
    assert job["timings"]["other"] < LEASE_SECONDS  # nothing that long is between the stages
    return job["timings"].get("lost", 0.0)


def objects(pair: Stack, job: dict[str, Any]) -> list[str]:
    page = s3_client(pair.s3_url, *key_pair(pair)).list_objects_v2(Bucket="zimage", Prefix=f"jobs/{job['id']}/")
    return sorted(item["Key"].split("/", 2)[2] for item in page.get("Contents", []))


def test_two_workers_share_fifty_jobs_and_do_each_once(pair: Stack, http: httpx.Client) -> None:
    jobs = [submit(http) for _ in range(50)]
    ended = [wait(http, job) for job in jobs]
    assert {job["status"] for job in ended} == {"succeeded"}
    assert {job["attempt"] for job in ended} == {1}
    assert len({job["worker"] for job in ended}) == 2
    assert len({job["images"][0]["sha256"] for job in ended}) == 50
    assert all(objects(pair, job) == ["1/0.png", "1/job.json"] for job in jobs)


def test_high_jobs_overtake_waiting_ones_and_low_ones_yield(http: httpx.Client) -> None:
    blockers = [submit(http, **LONG) for _ in range(2)]  # each worker has one
    wait_until(lambda: all(read(http, blocker)["status"] == "running" for blocker in blockers))
    order = [submit(http, priority=priority) for priority in ("low", "normal", "normal", "high")]
    positions = [read(http, job)["queue"]["position"] for job in order]
    assert positions == [4, 2, 3, 1]
    for blocker in blockers:
        http.post(blocker["urls"]["cancel"])
    low, first, second, high = (wait(http, job)["started_at"] for job in order)
    assert high < first < second < low


def test_a_killed_workers_job_is_done_by_another_once(pair: Stack, http: httpx.Client) -> None:
    job = submit(http, **LONG)
    os.kill(worker_pid(pair, http, job), signal.SIGKILL)
    ended = wait(http, job)
    assert (ended["status"], ended["attempt"]) == ("succeeded", 2)
    assert lost(ended) >= LEASE_SECONDS
    assert len(ended["images"]) == 1
    assert httpx.get(ended["images"][0]["url"]).status_code == 200
    assert objects(pair, job) == ["2/0.png", "2/job.json"]
    wait_until(lambda: http.get("/v1/queue").json()["workers"] == 2)  # the stack has started another


def test_a_frozen_worker_that_wakes_up_late_changes_nothing(pair: Stack, http: httpx.Client) -> None:
    job = submit(http, **LONG)
    zombie = worker_pid(pair, http, job)
    os.kill(zombie, signal.SIGSTOP)
    try:
        ended = wait(http, job)
    finally:
        os.kill(zombie, signal.SIGCONT)
    assert (ended["status"], ended["attempt"]) == ("succeeded", 2)
    # The zombie goes on, sees that the job is not its own any more, and takes new work.
    after = [wait(http, submit(http)) for _ in range(10)]
    assert {other["status"] for other in after} == {"succeeded"}
    assert read(http, job) | {"images": None} == ended | {"images": None}
    assert read(http, job)["images"][0]["sha256"] == ended["images"][0]["sha256"]
    wait_until(lambda: objects(pair, job) == ["2/0.png", "2/job.json"])


def test_a_finished_picture_survives_an_outage_of_storage(pair: Stack, http: httpx.Client) -> None:
    job = submit(http, **LONG)
    wait_until(lambda: read(http, job)["progress"]["step"] >= LONG["num_inference_steps"] - 3)
    os.kill(pair.pids()["s3"], signal.SIGKILL)
    ended = wait(http, job)
    assert (ended["status"], ended["attempt"]) == ("succeeded", 1)
    wait_until(lambda: httpx.get(ended["images"][0]["url"]).status_code == 200)


def redis_dies_before_the_commit(pair: Stack, http: httpx.Client, job: dict[str, Any]) -> int:
    """Let Redis stand still until the job is in S3, then kill it with all that it has not read yet; return its pid."""
    wait_until(lambda: read(http, job)["progress"]["step"] >= 2)
    valkey = pair.pids()["valkey"]
    os.kill(valkey, signal.SIGSTOP)
    try:
        wait_until(lambda: objects(pair, job) == ["1/0.png", "1/job.json"])
    finally:
        os.kill(valkey, signal.SIGKILL)
    return valkey


def test_a_finished_picture_survives_an_outage_of_redis(pair: Stack, http: httpx.Client) -> None:
    job = submit(http, **LONG)
    dead = redis_dies_before_the_commit(pair, http, job)
    for _ in range(3):  # each time it is away for longer, in the end for more than redis-py's own tries
        wait_until(lambda: pair.pids()["valkey"] not in (None, dead))  # noqa: B023  # asked at once
        dead = pair.pids()["valkey"]
        os.kill(dead, signal.SIGKILL)
    wait_until(lambda: http.get(job["urls"]["self"]).status_code == 200)
    ended = wait(http, job)
    assert (ended["status"], ended["attempt"]) == ("succeeded", 1)
    assert objects(pair, job) == ["1/0.png", "1/job.json"]


def test_a_finished_picture_that_comes_too_late_is_removed(pair: Stack, http: httpx.Client) -> None:
    job = submit(http, **LONG)
    late = worker_pid(pair, http, job)
    redis_dies_before_the_commit(pair, http, job)
    os.kill(late, signal.SIGSTOP)
    try:
        wait_until(lambda: http.get(job["urls"]["self"]).status_code == 200)
        ended = wait(http, job)
    finally:
        os.kill(late, signal.SIGCONT)
    assert (ended["status"], ended["attempt"]) == ("succeeded", 2)
    wait_until(lambda: objects(pair, job) == ["2/0.png", "2/job.json"])


def test_a_worker_told_to_leave_finishes_its_job(pair: Stack, http: httpx.Client) -> None:
    job = submit(http, **LONG)
    os.kill(worker_pid(pair, http, job), signal.SIGTERM)
    ended = wait(http, job)
    assert (ended["status"], ended["attempt"]) == ("succeeded", 1)
    assert lost(ended) == 0
    wait_until(lambda: http.get("/v1/queue").json()["workers"] == 2)


def test_a_job_stops_when_its_time_is_over(http: httpx.Client) -> None:
    ended = wait(http, submit(http, **LONG | {"num_inference_steps": 50, "timeout_seconds": 1}))
    assert ended["status"] == "failed"
    assert ended["error"]["code"] == "deadline_exceeded"
    assert 0 < ended["progress"]["step"] < 50


def test_more_work_than_the_service_takes_is_refused(http: httpx.Client) -> None:
    response = http.post("/v1/jobs", json={"prompt": "x", "width": 1024, "height": 1024, "num_images": 2})
    assert response.status_code == 422
    assert response.json()["errors"][0]["pointer"] == ""
    assert "8,388,608" in response.json()["detail"]
