"""How the API listens."""

from fastapi import FastAPI

from api import server
from jobs.settings import Settings


def test_idle_connections_outlive_those_of_balancers() -> None:
    """Which keep theirs for 60 s usually; who keeps them longer has a setting."""
    assert server._config(Settings(), FastAPI()).timeout_keep_alive > 60
    assert server._config(Settings(keep_alive_seconds=620), FastAPI()).timeout_keep_alive == 620
