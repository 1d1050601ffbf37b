"""A Redis that hangs, which no connection notices: Prometheus and browsers get from the API what needs no Redis."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from cli.stack import Stack

SCRAPE_TIMEOUT = 10.0  # Prometheus' own; a target that answers later counts as down


@pytest.fixture
def http(tmp_path: Path) -> Iterator[httpx.Client]:
    """An API whose Redis was well, and hangs."""
    with Stack(tmp_path, workers=0) as own, httpx.Client(base_url=own.api_url, timeout=SCRAPE_TIMEOUT) as client:
        assert "zimage_workers 0.0\n" in client.get("/metrics").text
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
        assert "zimage_jobs{" not in told
    assert http.get("/").text.startswith("<!doctype html>")
