"""The soak of tenants judges what it has seen."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bench.tenants.__main__ import measure, problems, spread
from bench.tenants.accounting import Ended
from bench.tenants.tenant import Notes, paced
from bench.tenants.watch import Watch


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


MOST = {
    "api": {"files": 10, "sockets": 20},
    "valkey": {"used_memory": 1000},
    "api_peak_rss_bytes": 10**8,
}
TOLD: dict[str, Any] = {
    "posts": [(0.0, 0.01), (0.5, 0.02), (1.0, 0.03)],
    "refused": [],
    "pictures": {"a": "0", "b": "1", "c": "2"},
    "wrong": [],
    "webhooks_missing": 0,
}


def judged(told: dict[str, Any], ended: Ended, livez: list[float | None], *, restarted: bool = False) -> list[str]:
    notes = {"honest": Notes(accepted=["a", "b", "c"])}
    watch = cast("Watch", SimpleNamespace(livez=livez))
    return problems(notes, measure(told, cast("Any", MOST), {"honest": ended}), watch, restarted=restarted)


def test_a_run_without_fault_has_no_problem() -> None:
    assert judged(TOLD, Ended(), [0.01]) == []


def test_what_is_lost_late_refused_or_dead_is_told() -> None:
    slow = {**TOLD, "posts": [(0.0, 0.5)] * 3, "refused": ["0.0 s: 503"], "pictures": {"a": "0"}}
    found = judged(slow, Ended(lost=["b"]), [None], restarted=True)
    for word in ("p99", "not accepted", "without the right picture", "jobs lost", "/livez", "started again"):
        assert any(word in problem for problem in found)
    assert spread([0.001, 0.002, 0.1])["max"] == 100


async def test_a_pace_goes_on_though_nothing_ends_and_gives_up_what_is_under_way() -> None:
    begun, ended = [], []

    async def hang(number: int) -> None:
        begun.append(number)
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(number)

    await paced(500, hang, 0.2, under_way=5)
    assert begun == sorted(ended) == [0, 1, 2, 3, 4]
