"""No accepted job is lost and none is done twice, whatever dies: each fault of `bench.chaos`, in small.

A run that hit fewer jobs than it should is void, and fails. `python -m bench.chaos` runs 1,000 jobs through each fault.
"""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.chaos import Place, chaotic_stack, run
from bench.faults import FAULTS, Fault, stop_s3, stop_valkey

JOBS, HITS = 36, 5
# Those that strike single jobs are run together: most of the time goes into starting workers that were killed.
ALONE = [name for name, fault in FAULTS.items() if fault.act and not fault.unfenced]
MARKS = [mark for fault in FAULTS.values() for mark in fault.marks]


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with chaotic_stack() as running:
        yield running


@pytest.mark.parametrize("name", ALONE)
def test_nothing_is_lost_or_done_twice(place: Place, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "clock" and not list(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")):
        pytest.skip("needs libfaketime (Debian's package faketime)")
    if name == "s3-disk-full" and os.geteuid() != 0:
        pytest.skip("fills a small disk that only root can mount")
    shorter = {"valkey-stop": stop_valkey(12), "s3-stop": stop_s3(6)}
    monkeypatch.setitem(FAULTS, name, FAULTS[name].with_act(shorter.get(name, FAULTS[name].act)))
    assert run(name, place, JOBS, HITS)["problems"] == []


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


def test_without_fences_some_would_be_done_twice() -> None:
    with chaotic_stack(fenced=False) as place:
        assert run("unfenced", place, JOBS, HITS)["problems"] == []
