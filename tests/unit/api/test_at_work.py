"""Who asks has a few requests at work, and never waits for those of another."""

import asyncio

import pytest

from api.http.at_work import MOST, Work


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def begun(work: Work, asker: str, count: int, *, reads: bool = True) -> list[asyncio.Task[None]]:
    tasks = [asyncio.create_task(work.begin(asker, reads=reads)) for _ in range(count)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return tasks


def at_work(tasks: list[asyncio.Task[None]]) -> int:
    return sum(task.done() for task in tasks)


async def end(work: Work, asker: str) -> None:
    work.end(asker)
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_a_thousand_requests_of_one_leave_room_for_who_comes_next() -> None:
    work = Work()
    many = await begun(work, "hostile", 1000)
    assert at_work(many) == MOST // 2
    assert at_work(await begun(work, "honest", 1)) == 1
    for task in many:
        task.cancel()


async def test_who_has_none_at_work_begins_at_once_however_many_others_there_are() -> None:
    work = Work()
    crowd = [await begun(work, f"hostile {number}", 100) for number in range(3 * MOST)]
    assert all(at_work(tasks) >= 1 for tasks in crowd)
    assert at_work(await begun(work, "honest", 1)) == 1
    for tasks in crowd:
        for task in tasks:
            task.cancel()


async def test_those_who_wait_are_let_in_in_their_order_and_all_of_them() -> None:
    work = Work()
    tasks = await begun(work, "one", 20)
    for ended in range(20):
        assert at_work(tasks) == min(20, MOST // 2 + ended)
        assert all(task.done() for task in tasks[: at_work(tasks)])
        await end(work, "one")


async def test_a_submit_goes_before_the_reads_of_the_same_asker_and_after_its_earlier_submits() -> None:
    work = Work()
    reads = await begun(work, "one", 100)
    submits = await begun(work, "one", 2, reads=False)
    before = at_work(reads)
    for submit in submits:
        assert not submit.done()
        await end(work, "one")
        assert submit.done()
    assert at_work(reads) == before
    await end(work, "one")
    assert at_work(reads) == before + 1
    for read in reads:
        read.cancel()


@pytest.mark.parametrize("at_the_moment", [False, True], ids=["waiting", "as it is let in"])
async def test_who_leaves_while_waiting_takes_no_room(at_the_moment: bool) -> None:
    work = Work()
    tasks = await begun(work, "one", MOST // 2 + 2)
    leaving, last = tasks[-2:]
    if at_the_moment:
        work.end("one")
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    if not at_the_moment:
        await end(work, "one")
    await asyncio.sleep(0)
    assert last.done()
    assert not last.cancelled()
