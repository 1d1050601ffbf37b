"""What those who wait for jobs are told when their API process gets SIGTERM."""

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from cli.stack import Stack

PICTURE = {"prompt": "a cat", "size": "128x128"}
JOB = {"prompt": "a cat", "width": 64, "height": 64}


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Stack]:
    """A service that draws nothing."""
    with Stack(tmp_path, workers=0) as running:
        yield running


def wait_until_back(http: httpx.Client) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            http.get("/livez").raise_for_status()
            return
        except httpx.TransportError:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_a_job_that_waits_for_too_long_expires_though_no_worker_lives(own: Stack) -> None:
    with httpx.Client(base_url=own.api_url, timeout=60) as http:
        url = http.post("/v1/jobs", json={**JOB, "timeout_seconds": 1}).json()["urls"]["self"]
        assert http.get(url, headers={"Prefer": "wait=60"}).json()["status"] == "expired"


def test_who_waits_is_answered_before_the_end(own: Stack) -> None:
    def jobs(http: httpx.Client) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = http.get("/v1/jobs").json()["jobs"]
        return found

    with httpx.Client(base_url=own.api_url, timeout=30) as http, ThreadPoolExecutor() as pool:
        urls = http.post("/v1/jobs", json=JOB).json()["urls"]
        poll = pool.submit(httpx.get, urls["self"], headers={"Prefer": "wait=60"}, timeout=30)
        events = pool.submit(httpx.get, urls["events"], timeout=30)
        post = pool.submit(httpx.post, f"{own.api_url}/v1/images/generations", json=PICTURE, timeout=30)
        kept = pool.submit(
            httpx.post,
            f"{own.api_url}/v1/images/generations",
            json=PICTURE,
            headers={"Idempotency-Key": "mine"},
            timeout=30,
        )
        while len(jobs(http)) < 3:
            time.sleep(0.05)
        time.sleep(0.5)
        os.kill(own.pids()["api"], signal.SIGTERM)

        assert (poll.result().status_code, poll.result().json()["status"]) == (200, "queued")
        assert "event: status" in events.result().text
        for answer in (post.result(), kept.result()):
            assert answer.status_code == 503, answer.text
            assert answer.json()["error"]["code"] == "closing"
            assert answer.headers["retry-after"] == "1"

    with httpx.Client(base_url=own.api_url, timeout=30) as http:
        wait_until_back(http)
        states = sorted(job["status"] for job in jobs(http))
    assert states == ["canceled", "queued", "queued"]  # a request that comes again finds its job, or makes a new one
