"""The step cache that the service has for jobs that name none: in the record, and where a job is asked for again."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from cli.stack import Stack
from jobs.settings import Settings

CAT = {"prompt": "a cat"}
MASK = "11101001"


@pytest.fixture
def prefix(servers: Stack, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in servers.environ().items():
        monkeypatch.setenv(name, value)
    return f"cached-{secrets.token_hex(4)}:"


@contextmanager
def serving(prefix: str, step_cache: Any) -> Iterator[TestClient]:
    settings = Settings(redis_prefix=prefix, step_cache=step_cache)
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as http:
        yield http


def recorded(http: TestClient, **fields: Any) -> Any:
    answer = http.post("/v1/jobs", json={**CAT, **fields})
    assert answer.status_code == 202, answer.text
    return answer.json()["input"]["step_cache"]


def test_the_default_in_force_is_in_the_record_of_a_job_that_names_none(prefix: str) -> None:
    with serving(prefix, "off") as http:
        assert recorded(http) == "off"
    with serving(prefix, "fast") as http:
        assert [recorded(http), recorded(http, step_cache=None)] == ["fast", "fast"]
        assert [recorded(http, step_cache="off"), recorded(http, step_cache="quality")] == ["off", "quality"]
        assert recorded(http, step_cache={"first": 2})["first"] == 2


def test_a_default_that_does_not_fit_a_job_is_off_for_it(prefix: str) -> None:
    with serving(prefix, {"mask": MASK}) as http:
        assert recorded(http)["mask"] == MASK
        assert recorded(http, num_inference_steps=4) == "off"
    with serving(prefix, {"first": 7}) as http:  # all of the bundled model's layers
        assert recorded(http) == "off"


def test_a_job_is_the_same_again_whatever_the_default_is_by_now(prefix: str) -> None:
    headers = {"Idempotency-Key": "before-the-change"}
    with serving(prefix, {"mask": MASK}) as http:
        first = http.post("/v1/jobs", json=CAT, headers=headers).json()
    with serving(prefix, {"threshold": 0.5}) as http:
        again = http.post("/v1/jobs", json=CAT, headers=headers)
        assert (again.status_code, again.json()["id"]) == (200, first["id"])
        assert again.json()["input"]["step_cache"]["mask"] == MASK
        other = http.post("/v1/jobs", json={**CAT, "step_cache": "fast"}, headers=headers)
        assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


@pytest.mark.parametrize(
    ("step_cache", "pointer", "told"),
    [
        ({"mask": "101"}, "/step_cache/mask", "must have a digit for each of the 8 steps, has 3"),
        ({"first": 0}, "/step_cache/first", "greater than or equal to 1"),
        ({"Fn": 1}, "/step_cache/Fn", "no such field: use first"),
        ({"first": 5, "last": 2}, "/step_cache", "fewer together than the served model's 7 layers"),
    ],
)
def test_what_does_not_fit_is_told_where_it_is(prefix: str, step_cache: Any, pointer: str, told: str) -> None:
    with serving(prefix, "off") as http:
        body = {**CAT, "step_cache": step_cache}
        refused = http.post("/v1/jobs", json=body)
        openai = http.post("/v1/images/generations", json=body)
    [error] = refused.json()["errors"]
    assert (refused.status_code, error["pointer"]) == (422, pointer)
    assert told in error["detail"]
    assert openai.status_code == 400
    assert told in openai.json()["error"]["message"]
