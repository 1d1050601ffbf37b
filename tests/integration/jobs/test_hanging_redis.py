"""A Redis that hangs, which no connection notices: the API answers all the same, and says so where it needs Redis."""

import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from cli.stack import Stack

PATIENCE = 30.0  # seconds of the clients: an answer takes 10 at most, and more on a machine that is busy


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hanging")


@pytest.fixture(scope="module")
def http(folder: Path) -> Iterator[httpx.Client]:
    """An API whose Redis was well, and hangs."""
    with (
        Stack(folder, workers=0, env={"ZIMAGE_LOG_FORMAT": "json"}) as own,
        httpx.Client(base_url=own.api_url, timeout=PATIENCE) as client,
    ):
        told = client.get("/metrics").text
        assert "zimage_workers 0.0\n" in told
        assert 'zimage_jobs_ended_total{code="worker_lost",outcome="failed"} 0.0\n' in told
        valkey = own.pids()["valkey"]
        os.kill(valkey, signal.SIGSTOP)
        try:
            yield client
        finally:
            os.kill(valkey, signal.SIGCONT)


def test_what_needs_no_redis_is_answered(http: httpx.Client) -> None:
    for _ in range(2):  # the second meets connections that were given up
        told = http.get("/metrics").text
        assert "zimage_http_request_seconds_count{" in told
        assert "zimage_workers NaN\n" in told
        assert "zimage_redis_memory_used_bytes NaN\n" in told
        assert "zimage_jobs{" not in told
        assert "zimage_jobs_ended_total{" not in told
        assert "zimage_key_" not in "".join(line for line in told.splitlines() if not line.startswith("#"))
    assert http.get("/").text.startswith("<!doctype html>")


def test_submits_are_refused_before_their_clients_give_up(http: httpx.Client, folder: Path) -> None:
    def submit(path: str) -> httpx.Response:
        return http.post(path, json={"prompt": "a circle"})

    many = ["/v1/jobs", "/v1/images/generations"] * 10  # more than there are connections to Redis
    with ThreadPoolExecutor(len(many)) as clients:
        answers = list(clients.map(submit, many))
    assert {answer.status_code for answer in answers} == {503}
    assert all(answer.headers["Retry-After"].isdecimal() for answer in answers)
    lines = [json.loads(line) for line in (folder / "logs" / "api.log").read_text().splitlines()]
    told = [line for line in lines if line["message"].startswith("Redis is away")]
    assert {line["request_id"] for line in told} == {answer.headers["X-Request-ID"] for answer in answers}
    assert {line["key"] for line in told} == {"anonymous"}
