"""What tests with real servers have in common."""

import signal
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def credentials_of_the_test_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """boto3 keeps the first credentials that it finds; each stack has a key pair of its own."""
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)


@pytest.fixture
def handlers() -> Iterator[None]:
    """Give the signals back that Celery takes over."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
