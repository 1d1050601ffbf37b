"""Those who wait for a job while Redis dies, and comes back sooner or later, or their key is revoked.

The API runs in this process, so that it looks again and gives up sooner than it does; Valkey is a real one, killed.
"""

import json
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from api import following
from cli.stack import Stack
from jobs.keys import KeysFile
from support.operating import Service, service
from support.serving_api import serving

Event = tuple[str, str]  # its id, and the status of the job that it tells


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    """A Valkey (and an S3 server) to kill."""
    with Stack(tmp_path, services=False) as stack:
        for name, value in stack.environ().items():
            monkeypatch.setenv(name, value)  # the key pair that signs the images' URLs
        yield stack


@pytest.fixture
def own(server: Stack) -> Iterator[Service]:
    with service(server) as running:
        yield running


@pytest.fixture(autouse=True)
def all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let waiting clients look at their job all the time, so that they do while Redis is away."""
    monkeypatch.setattr(following, "LOOK_AGAIN_SECONDS", 0.1)


@pytest.fixture
def http(own: Service) -> Iterator[httpx.Client]:
    with serving(own.settings) as client:
        yield client


def submitted(http: httpx.Client) -> dict[str, Any]:
    response = http.post("/v1/jobs", json={"prompt": "a cat", "width": 64, "height": 64})
    assert response.status_code == 202, response.text
    job: dict[str, Any] = response.json()
    return job


def kill(server: Stack) -> None:
    """Kill Valkey, and let nobody start it again."""
    os.kill(server.pids()["valkey"], signal.SIGKILL)
    server.stop()


def told(response: httpx.Response) -> Iterator[Event]:
    """Give a stream's events; it raises when the stream is cut off."""
    version = ""
    for line in response.iter_lines():
        name, _, value = line.partition(": ")
        if name == "id":
            version = value
        elif name == "data":
            status = json.loads(value)["status"]
        elif not line and version:
            yield version, status
            version = ""


def test_an_outage_is_waited_out(server: Stack, own: Service, http: httpx.Client) -> None:
    urls = submitted(http)["urls"]
    claim = own.claim()
    with ThreadPoolExecutor(1) as pool, http.stream("GET", urls["events"]) as response:
        poll = pool.submit(http.get, urls["self"], headers={"Prefer": "wait=60"})
        events = told(response)
        assert next(events)[1] == "running"
        time.sleep(0.5)  # both are waiting now
        kill(server)
        server.start()
        assert own.commit(claim) == "succeeded"
        assert [status for _, status in events] == ["succeeded"]
        assert (poll.result().status_code, poll.result().json()["status"]) == (200, "succeeded")


def test_a_client_that_leaves_during_an_outage_cancels_its_job(server: Stack, own: Service, http: httpx.Client) -> None:
    def only() -> dict[str, Any]:
        (job,) = http.get("/v1/jobs").json()["jobs"]
        return job

    def draw() -> None:
        with pytest.raises(httpx.ReadTimeout):
            http.post("/v1/images/generations", json={"prompt": "a cat", "size": "64x64"}, timeout=3)

    with ThreadPoolExecutor(1) as pool:
        client = pool.submit(draw)
        while not http.get("/v1/jobs").json()["jobs"]:
            time.sleep(0.05)
        kill(server)
        client.result()
    time.sleep(1.5)  # at least one try to cancel finds nobody
    server.start()
    deadline = time.monotonic() + 30
    while only()["status"] != "canceled":
        assert time.monotonic() < deadline, only()
        time.sleep(0.1)


def test_an_outage_that_lasts_ends_the_waiting_in_order(
    server: Stack,
    own: Service,
    http: httpx.Client,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(following, "OUTAGE_SECONDS", 1.0)
    urls = submitted(http)["urls"]
    claim = own.claim()
    with ThreadPoolExecutor(1) as pool, http.stream("GET", urls["events"]) as response:
        poll = pool.submit(http.get, urls["self"], headers={"Prefer": "wait=60"})
        events = told(response)
        last, status = next(events)
        assert status == "running"
        time.sleep(0.5)
        kill(server)
        assert list(events) == []
        assert (poll.result().status_code, poll.result().json()["code"]) == (503, "queue_unavailable")
        assert "retry-after" in poll.result().headers
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []

    server.start()
    assert own.commit(claim) == "succeeded"
    with http.stream("GET", urls["events"], headers={"Last-Event-ID": last}) as response:
        assert [status for _, status in told(response)] == ["succeeded"]


def test_a_job_that_goes_meanwhile_ends_its_events_in_order(
    own: Service, http: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    job = submitted(http)
    with http.stream("GET", job["urls"]["events"]) as response:
        events = told(response)
        assert next(events)[1] == "queued"
        own.redis.delete(f"{own.settings.redis_prefix}job:{job['id']}")  # nothing is published, as when it expires
        assert list(events) == []
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []
    assert http.get(job["urls"]["events"]).status_code == 404


def test_a_key_that_is_revoked_ends_its_streams(own: Service, tmp_path: Path) -> None:
    file = KeysFile(tmp_path / "keys.json")
    file.create("bob")
    bearer = {"Authorization": f"Bearer {file.create('alice')}"}
    with serving(own.settings.model_copy(update={"api_keys_file": tmp_path / "keys.json"})) as http:
        http.headers.update(bearer)
        job = submitted(http)
        with http.stream("GET", job["urls"]["events"]) as response:
            events = told(response)
            assert next(events)[1] == "queued"
            file.revoke("alice")
            assert list(events) == []
        assert http.get(job["urls"]["events"]).status_code == 401
