"""How the API listens."""

import resource

import pytest
from fastapi import FastAPI

from api import server
from jobs.settings import Settings


def test_idle_connections_outlive_those_of_balancers() -> None:
    """Which keep theirs for 60 s usually; who keeps them longer has a setting."""
    assert server._config(Settings(), FastAPI()).timeout_keep_alive > 60
    assert server._config(Settings(keep_alive_seconds=620), FastAPI()).timeout_keep_alive == 620


@pytest.mark.parametrize(("most", "allowed"), [(100_000, 16_384), (10_240, 10_240)], ids=["Linux", "macOS"])
def test_many_connections_are_allowed(monkeypatch: pytest.MonkeyPatch, most: int, allowed: int) -> None:
    chosen = []

    def setrlimit(_: int, limits: tuple[int, int]) -> None:
        if limits[0] > most:
            raise ValueError("current limit exceeds maximum limit")
        chosen.append(limits[0])

    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", setrlimit)
    server._allow_many_connections()
    assert chosen == [allowed]
