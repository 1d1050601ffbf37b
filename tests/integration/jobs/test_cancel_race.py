"""A client's cancel racing the worker's commit; `python -m bench.chaos.cancel_race` runs 10,000 tries of the same."""

from bench.chaos.cancel_race import CANCELED, COMMITTED, race
from cli.stack import Stack

TRIES = 300


def test_a_cancel_and_a_commit_at_once_have_one_outcome_told_to_both(servers: Stack) -> None:
    tries = race(servers.redis_url, TRIES)
    assert len(tries) == TRIES
    assert [one for one in tries if not one.consistent] == []
    assert {one.outcome for one in tries} == {CANCELED, COMMITTED}
    # Void unless both orders also occurred where the two calls were under way at the same time.
    assert {one.outcome for one in tries if one.overlapped} == {CANCELED, COMMITTED}
