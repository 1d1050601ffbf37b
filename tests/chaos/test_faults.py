"""No accepted job is lost and none is done twice, whatever dies: each fault of `bench.chaos`, in small.

A run that hit fewer jobs than it should is void, and fails. `python -m bench.chaos` runs 1,000 jobs through each fault.
"""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.chaos.__main__ import Place, chaotic_stack, run
from bench.chaos.accounting import Load, wait_for
from bench.chaos.faults import FAULTS, Fault, fill_queue, stop_s3, stop_valkey

JOBS, HITS = 36, 5
# Those that strike single jobs are run together: most of the time goes into starting workers that were killed, and
# `kill` measures how soon that is.
ALONE = [name for name, fault in FAULTS.items() if fault.act and not fault.unfenced and name != "kill"]
MARKS = [mark for fault in FAULTS.values() for mark in fault.marks]


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with chaotic_stack() as running:
        yield running


@pytest.mark.timeout(600)  # the longest comes first: two processes share them
def test_nothing_is_lost_or_done_twice_when_single_jobs_are_struck(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = Fault("all that strikes single jobs", marks=tuple(MARKS))
    monkeypatch.setitem(FAULTS, "together", together)
    result = run("together", place, 3 * JOBS, HITS)
    assert result["problems"] == []
    struck = Counter(result["hits_by_fault"])
    by_fault = [sum(struck[mark.fault] for mark in fault.marks) for fault in FAULTS.values() if fault.marks]
    assert min(by_fault) >= HITS
    assert set(struck) >= {mark.fault for mark in MARKS}
    assert result["worker_ends"]["70"] >= struck["device-error"]  # each ends a worker: its device does nothing more


@pytest.mark.parametrize("name", ALONE)
def test_nothing_is_lost_or_done_twice(place: Place, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "clock" and not list(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")):
        pytest.skip("needs libfaketime (Debian's package faketime)")
    if name == "s3-disk-full" and os.geteuid() != 0:
        pytest.skip("fills a small disk that only root can mount")
    shorter = {"valkey-stop": stop_valkey(8), "s3-stop": stop_s3(6), "queue-10000": fill_queue(50)}
    monkeypatch.setitem(FAULTS, name, FAULTS[name].with_act(shorter.get(name, FAULTS[name].act)))
    result = run(name, place, JOBS, HITS)
    assert result["problems"] == []
    if name in ("sigterm", "kill-all"):  # no server is away: nothing as long as a lost lease is between the stages
        assert result["other_seconds"]["max"] < float(place.environ["ZIMAGE_LEASE_SECONDS"])


@pytest.fixture(scope="module")
def control() -> Iterator[Place]:
    """Without fences, and with little patience with S3."""
    with chaotic_stack(fenced=False, environ={"ZIMAGE_HOLD_SECONDS": "1"}) as running:
        yield running


def test_without_fences_some_would_be_done_twice(control: Place) -> None:
    assert run("unfenced", control, JOBS, HITS)["problems"] == []


def test_a_job_whose_image_s3_never_takes_fails_and_the_next_one_waits(control: Place) -> None:
    load = Load(control.stack.api_url, control.folder)
    control.proxy.refuse(503)
    [given_up] = load.submit(1)
    wait_for(lambda: load.ended(given_up), 120, "the end of the job")
    error = (load.read(given_up) or {})["error"]
    assert (error["code"], error["retryable"]) == ("storage_unavailable", True)
    [waiting] = load.submit(1)
    control.proxy.refuse(None)
    load.wait_until_done()
    assert (load.read(waiting) or {})["status"] == "succeeded"
    load.close()
