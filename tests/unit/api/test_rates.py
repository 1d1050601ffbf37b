"""So many per second for each who asks: at once, in time, and for how many it is remembered."""

import pytest

from api.http import rates
from api.http.rates import Rate


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(rates, "monotonic", lambda: now[0])
    return now


def taken(rate: Rate, asker: str) -> int:
    """Take what there is, and return how many."""
    count = 0
    while not rate.wait(asker):
        rate.take(asker)
        count += 1
    return count


def test_ten_seconds_worth_come_at_once_and_the_rest_in_time(clock: list[float]) -> None:
    rate = Rate(4)
    assert taken(rate, "alice") == 40
    assert rate.wait("alice") == pytest.approx(1 / 4)
    clock[0] += 1.01
    assert taken(rate, "alice") == 4
    clock[0] += 3600
    assert taken(rate, "alice") == 40


def test_each_has_its_own(clock: list[float]) -> None:
    rate = Rate(4)
    taken(rate, "alice")
    assert taken(rate, "bob") == 40


def test_what_was_under_way_together_is_a_debt_that_ends(clock: list[float]) -> None:
    rate = Rate(4)
    for _ in range(100_000):
        rate.take("alice")
    assert rate.wait("alice") == pytest.approx(10 + 1 / 4)


def test_only_so_many_are_remembered(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "MOST_ASKERS", 100)
    rate = Rate(4)
    taken(rate, "alice")
    for number in range(99):
        rate.take(f"address {number}")
    assert rate.wait("alice")
    for number in range(100):
        rate.take(f"address {number}")
        assert len(rate._paid) <= 100
    assert not rate.wait("alice")
