"""What tests with real servers have in common."""

import pytest


@pytest.fixture(autouse=True)
def credentials_of_the_test_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """boto3 keeps the first credentials that it finds; each stack has a key pair of its own."""
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)
