"""What no worker's memory has room for is refused at submit, with the largest that one has room for."""

import secrets
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from bench.chaos.accounting import wait_for
from cli.stack import Stack
from jobs.settings import Settings
from jobs.store.redis_client import connect
from jobs.store.worker import WorkerStore
from support.rooms import card

CAT = {"prompt": "a cat"}


class Service(NamedTuple):
    """An API, and what a worker would speak to Redis with."""

    http: TestClient
    worker: WorkerStore


@pytest.fixture(scope="module")
def service(servers: Stack) -> Iterator[Service]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in servers.environ().items():
            patch.setenv(name, value)
        settings = Settings(redis_prefix=f"room-{secrets.token_hex(4)}:")
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as http, connect(settings) as client:
        worker = WorkerStore(client, settings)
        worker.heartbeat("small", card(128, 128), None, [])
        worker.heartbeat("large", card(512, 512, 256), None, [])
        yield Service(http, worker)


NO_512 = "there is GPU memory for pictures {}of at most {}, such as {}: ask for a smaller one"


@pytest.mark.parametrize(
    ("fields", "pointer", "told"),
    [
        ({"width": 528, "height": 512}, "/width", NO_512.format("", "262,144 pixels", "512×512")),
        ({"width": 256, "height": 1024, "guidance_scale": 2}, "/height", "pictures with guidance of at most 131,072"),
        (
            {"width": 512, "height": 512, "guidance_scale": 2, "step_cache": "fast"},
            "/width",
            NO_512.format("with guidance and a step cache ", "65,536 pixels", "256×256"),
        ),
        ({"width": 272, "height": 256, "num_images": 3}, "/num_images", "for 2 images of this size at most: ask for"),
        ({"num_images": 4}, "/num_images", "for 3 images of this size at most"),
    ],
)
def test_it_is_told_where_it_can_be_changed_in_either_form(
    service: Service, fields: dict[str, Any], pointer: str, told: str
) -> None:
    refused = service.http.post("/v1/jobs", json={**CAT, **fields})
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")
    [error] = refused.json()["errors"]
    assert error["pointer"] == pointer
    assert told in error["detail"]
    assert refused.json()["detail"] == f"{pointer}: {error['detail']}"

    openai = {**CAT, **fields, "n": fields.get("num_images", 1), "size": "auto"}
    if "width" in fields:
        openai["size"] = f"{fields['width']}x{fields['height']}"
    for name in ("width", "height", "num_images"):
        openai.pop(name, None)
    refused = service.http.post("/v1/images/generations", json=openai)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_request")
    where = {"/num_images": "n"}.get(pointer, f"size: {pointer[1:]}")
    assert refused.json()["error"]["message"] == f"{where}: {error['detail']}"
    assert refused.json()["error"]["param"] == where.partition(":")[0]


def test_what_one_of_the_workers_can_draw_is_accepted(service: Service) -> None:
    for fields in ({"width": 512, "height": 512, "num_images": 2}, {"width": 1024, "height": 256}, {"num_images": 3}):
        assert service.http.post("/v1/jobs", json={**CAT, **fields}).status_code == 202


def test_a_repetition_is_answered_though_the_worker_that_could_draw_it_has_left(service: Service) -> None:
    headers, large = {"Idempotency-Key": "large"}, {**CAT, "width": 1024, "height": 1024}
    service.worker.heartbeat("largest", card(), None, [])
    wait_for(lambda: service.http.post("/v1/jobs", json=large).status_code == 202, 5, "the API to know its memory")
    first = service.http.post("/v1/jobs", json=large, headers=headers)
    service.worker.depart("largest")
    service.worker.heartbeat("large", card(512, 512, 256), None, [])
    wait_for(lambda: service.http.post("/v1/jobs", json=large).status_code == 422, 5, "the API to know that it left")
    again = service.http.post("/v1/jobs", json=large, headers=headers)
    assert (first.status_code, again.status_code, again.json()["id"]) == (202, 200, first.json()["id"])
    assert service.http.get(f"/v1/jobs/{first.json()['id']}").json()["status"] == "queued"
