"""An API over what an earlier release left in Redis."""

import json
import secrets
from collections.abc import Iterator

import pytest
import redis
from fastapi.testclient import TestClient

from api.app import create_app
from cli.stack import Stack
from jobs.settings import Settings
from jobs.store.redis_client import connect
from support.golden import GOLDEN

BEFORE = GOLDEN["idempotency"]
JOBS = GOLDEN["jobs"]
OWNER = "anonymous"
# Its first digest is that of a request without a size, which became a job of 1024x1024.
SQUARE = {"key": "square-key", "id": "job_0000000000000000000000000000002a", "digest": GOLDEN["digests"][0]["digest"]}


def inherit(client: redis.Redis, prefix: str) -> None:
    """Write what the earlier release wrote: its ended jobs, the idempotency entry of one of them, its worker's card."""
    for record in JOBS.values():
        if record["status"] not in ("queued", "running"):
            client.hset(f"{prefix}job:{record['id']}", mapping=record)
            for index in (OWNER, f"{OWNER}:{record['status']}"):
                client.zadd(f"{prefix}owner:{index}", {record["id"]: record["created_at"]})
    client.set(f"{prefix}idempotency:{OWNER}:{BEFORE['key']}", BEFORE["entry"])
    client.set(f"{prefix}card", GOLDEN["card"])
    asked = json.dumps({**GOLDEN["digests"][0]["request"], "width": 1024, "height": 1024, "seed": 7})
    client.hset(f"{prefix}job:{SQUARE['id']}", mapping={**JOBS["succeeded"], "id": SQUARE["id"], "input": asked})
    client.set(f"{prefix}idempotency:{OWNER}:{SQUARE['key']}", f"{SQUARE['digest']} {SQUARE['id']}")


@pytest.fixture
def http(servers: Stack, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    for name, value in servers.environ().items():
        monkeypatch.setenv(name, value)
    settings = Settings(redis_prefix=f"inherited-{secrets.token_hex(4)}:", model="not the one that is served")
    with connect(settings) as client:
        inherit(client, settings.redis_prefix)
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as http:
        yield http


def test_a_key_that_came_before_is_the_same_job(http: TestClient) -> None:
    headers = {"Idempotency-Key": BEFORE["key"]}
    again = http.post("/v1/jobs", json=BEFORE["request"], headers=headers)
    assert (again.status_code, again.headers["idempotent-replayed"]) == (200, "true")
    assert again.json()["id"] == JOBS["succeeded"]["id"]
    assert [image["seed"] for image in again.json()["images"]] == [7, 8]

    other = http.post("/v1/jobs", json={**BEFORE["request"], "seed": 8}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


def test_a_size_that_it_filled_in_is_the_same_job_s(http: TestClient) -> None:
    headers = {"Idempotency-Key": SQUARE["key"]}
    again = http.post("/v1/jobs", json={"prompt": "a red circle"}, headers=headers)  # of the model it would be 128x128
    assert (again.status_code, again.json()["id"]) == (200, SQUARE["id"])
    for other in ({"prompt": "a red circle", "width": 128}, {"prompt": "a red circle", "width": 128, "height": 128}):
        refused = http.post("/v1/jobs", json=other, headers=headers)
        assert (refused.status_code, refused.json()["code"]) == (422, "idempotency_key_reused")


@pytest.mark.parametrize("route", ["/v1/jobs", "/v1/images/generations"])
def test_a_key_of_a_job_of_some_size_is_not_that_of_a_request_without(http: TestClient, route: str) -> None:
    for sides in ({"width": 256, "height": 256}, {"width": 128, "height": 1024}, {"width": 96}):
        headers = {"Idempotency-Key": "-".join(map(str, sides.values()))}
        assert http.post("/v1/jobs", json={"prompt": "a cat", **sides}, headers=headers).status_code == 202
        refused = http.post(route, json={"prompt": "a cat"}, headers=headers)
        assert refused.status_code in (400, 422)
        assert "this Idempotency-Key came with another body before" in refused.text


def test_its_jobs_are_listed_and_read(http: TestClient) -> None:
    listed = http.get("/v1/jobs", params={"limit": 100}).json()["jobs"]
    ended = {record["id"]: record["status"] for record in JOBS.values() if "finished_at" in record}
    assert {job["id"]: job["status"] for job in listed} == ended
    for job in listed:
        assert http.get(f"/v1/jobs/{job['id']}").json()["input"]["prompt"] == BEFORE["request"]["prompt"]


def test_its_workers_card_tells_what_is_served(http: TestClient) -> None:
    assert http.get("/v1/models").json()["data"][0]["id"] == "tiny"
    refused = http.post("/v1/jobs", json={"prompt": "a cat", "width": 2048})
    assert refused.json()["errors"] == [{"pointer": "/width", "detail": "the served model draws 64 to 1024 pixels"}]
