"""Tasks beside the requests end when the API does."""

import asyncio

import pytest

from api import background


def test_a_task_that_loses_a_cancellation_ends_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "CANCEL_SECONDS", 0.01)
    lost = 0

    async def work() -> None:
        nonlocal lost
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                lost += 1
                if lost == 3:
                    raise

    async def run() -> None:
        working = [asyncio.create_task(work())]
        await asyncio.sleep(0)
        await background.end(working)
        assert working[0].cancelled()

    asyncio.run(run())
    assert lost == 3
