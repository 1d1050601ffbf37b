"""Dead letters: an operator lists, retries and drops jobs that lost worker after worker."""

import re
import time
from collections.abc import Iterator

import pytest

from cli.stack import Stack
from jobs.doorbell import messages_key
from jobs.record import JobStatus
from jobs.store.dead_letters import DeadLetters
from support.operating import Service, service

NOBODY = "redis://:hidden@127.0.0.1:1/0"


@pytest.fixture
def own(servers: Stack) -> Iterator[Service]:
    with service(servers) as running:
        yield running


def messages(own: Service) -> int:
    return int(own.redis.llen(messages_key(own.settings)))


def test_dead_letters_are_listed_with_what_is_known_of_them(own: Service) -> None:
    assert own.zimage("dead", "list").stdout == ""
    first = own.dead_letter(prompt="a\tcat")
    second = own.dead_letter(prompt="ü" * 200)
    own.submit()
    lines = [line.split("\t") for line in own.zimage("dead", "list").stdout.splitlines()]
    failed = [job.finished_at.isoformat() for job in map(own.job, (first, second)) if job.finished_at]
    assert lines == [
        [first, failed[0], "3", "3", "worker_lost", "a cat"],
        [second, failed[1], "3", "3", "worker_lost", "ü" * 59 + "…"],
    ]


def test_the_list_as_json_keeps_everything(own: Service) -> None:
    job_id = own.dead_letter(prompt="x" * 200)
    (listed,) = own.zimage_json("dead", "list")
    assert (listed["id"], listed["attempt"], listed["losses"]) == (job_id, 3, 3)
    assert listed["error"]["code"] == "worker_lost"
    assert listed["input"]["prompt"] == "x" * 200


def test_a_retried_job_is_queued_with_its_losses_forgiven_and_the_bell_is_rung(own: Service) -> None:
    job_id, left = own.dead_letter(), own.dead_letter()
    done = own.zimage("dead", "retry", job_id)
    assert (done.returncode, done.stdout) == (0, f"{job_id}\n")
    job = own.job(job_id)
    assert (job.status, job.losses, job.attempt, job.error, job.finished_at) == (JobStatus.QUEUED, 0, 3, None, None)
    assert messages(own) == 1
    assert [job["id"] for job in own.zimage_json("dead", "list")] == [left]

    claim = own.claim()
    assert (claim.job.id, claim.job.attempt) == (job_id, 4)
    assert own.commit(claim) == "succeeded"


def test_all_dead_letters_are_retried_at_once(own: Service) -> None:
    assert own.zimage("dead", "retry", "--all").returncode == 0
    ids = [own.dead_letter() for _ in range(3)]
    assert own.zimage("dead", "retry", "--all").stdout.splitlines() == ids
    assert {own.job(job_id).status for job_id in ids} == {JobStatus.QUEUED}
    assert messages(own) == 3


def test_a_bell_that_can_not_be_rung_is_told_and_the_job_is_queued_all_the_same(own: Service) -> None:
    job_id = own.dead_letter()
    own.redis.acl_setuser(
        "mute", enabled=True, passwords=["+word"], keys=["*"], channels=["*"], commands=["+@all", "-lpush"]
    )
    url = re.sub(r"//(:.*@)?", "//mute:word@", own.environ["ZIMAGE_REDIS_URL"])
    done = own.zimage("dead", "retry", job_id, ZIMAGE_REDIS_URL=url)
    own.redis.acl_deluser("mute")
    assert (done.returncode, done.stdout) == (0, f"{job_id}\n")
    assert "the reaper will" in done.stderr
    assert own.job(job_id).status == JobStatus.QUEUED


def test_a_worker_of_before_can_not_end_a_retried_job(own: Service) -> None:
    job_id = own.submit()
    claims = [own.claim()]
    for attempt in range(3):
        own.worker.reap()
        own.redis.zadd(f"{own.settings.redis_prefix}running", {job_id: 1})  # its lease is over
        own.worker.reap()
        claims += [own.claim()] if attempt < 2 else []
    assert own.job(job_id).status == JobStatus.FAILED
    assert DeadLetters(own.redis, own.settings).retry(job_id) == "queued"
    assert [own.commit(claim) for claim in claims] == ["refused"] * 3
    assert own.commit(own.claim()) == "succeeded"


def test_a_dropped_job_leaves_the_list_and_stays_failed(own: Service) -> None:
    first, second, third = (own.dead_letter() for _ in range(3))
    assert own.zimage("dead", "drop", first).stdout == f"{first}\n"
    assert own.zimage("dead", "drop", "--all").stdout.splitlines() == [second, third]
    assert own.zimage("dead", "list").stdout == ""
    assert {own.job(job_id).status for job_id in (first, second, third)} == {JobStatus.FAILED}


@pytest.mark.parametrize("command", ["retry", "drop"])
def test_what_is_no_dead_letter_is_named_and_the_others_are_done(own: Service, command: str) -> None:
    dead, queued = own.dead_letter(), own.submit()
    done = own.zimage("dead", command, "job_nothing", dead, queued)
    assert (done.returncode, done.stdout) == (1, f"{dead}\n")
    assert done.stderr == (
        f"zimage: 2 of 3 left as they are: job_nothing: is no dead letter; {queued}: is no dead letter\n"
    )
    assert own.job(queued).status == JobStatus.QUEUED


def test_a_job_whose_time_is_over_is_not_retried(own: Service) -> None:
    late, in_time = own.dead_letter(timeout_seconds=1), own.dead_letter(timeout_seconds=3600)
    time.sleep(1.1)
    done = own.zimage("dead", "retry", "--all")
    assert (done.returncode, done.stdout) == (1, f"{in_time}\n")
    assert f"{late}: its timeout_seconds have passed" in done.stderr
    assert own.job(late).status == JobStatus.FAILED
    job = own.job(in_time)
    assert (job.deadline - job.created_at).total_seconds() == pytest.approx(3600, abs=1)


@pytest.mark.parametrize("arguments", [["retry"], ["drop"], ["retry", "job_1", "--all"], ["drop", "job_1", "--all"]])
def test_jobs_are_named_or_all_of_them_are_meant(own: Service, arguments: list[str]) -> None:
    dead = own.dead_letter()
    done = own.zimage("dead", *arguments)
    assert done.returncode == 2
    assert "--all" in done.stderr
    assert own.redis.zrange(f"{own.settings.redis_prefix}dead", 0, -1) == [dead]


@pytest.mark.parametrize("arguments", [["list"], ["retry", "--all"], ["drop", "job_1"]])
def test_a_redis_that_is_away_is_told_in_one_line(own: Service, arguments: list[str]) -> None:
    done = own.zimage("dead", *arguments, ZIMAGE_REDIS_URL=NOBODY)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("zimage: Redis at 127.0.0.1:1 (ZIMAGE_REDIS_URL): ")
    assert len(done.stderr.splitlines()) == 1
    assert "hidden" not in done.stderr
