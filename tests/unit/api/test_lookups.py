"""Lookups of names whose servers don't answer: what they must not hold up."""

import asyncio
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence

import httpx
import pytest

from api.webhooks import lookups
from api.webhooks.addresses import Addresses, LookupsError, ResolverError

HANGING = """
import asyncio, threading
from api.webhooks import lookups

lookups.SECONDS = 0.01
try:
    asyncio.run(lookups.Lookups(lambda host, port: threading.Event().wait()).find("bob", "dead.example", 80))
except TimeoutError:
    print("told")
"""


def test_a_process_ends_though_a_lookup_hangs() -> None:
    done = subprocess.run([sys.executable, "-c", HANGING], capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ("told\n", "")


def test_an_owner_s_place_is_taken_until_the_lookup_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookups, "SECONDS", 0.05)
    monkeypatch.setattr(lookups, "AT_ONCE", 2)
    going_on = threading.Event()

    def lookup(host: str, _port: int) -> Sequence[str]:
        if host.startswith("dead"):
            going_on.wait(60)
        return ["8.8.8.8"]

    async def asked() -> None:
        addresses = Addresses(allow_private=False, lookup=lookup)
        for name in ("dead1", "dead2"):
            with pytest.raises(ResolverError, match=f"{name}.example can't be resolved now"):
                await addresses.resolve(httpx.URL(f"http://{name}.example/"), "bob")
        with pytest.raises(LookupsError, match=r"^hooks\.example was not looked up"):
            await addresses.resolve(httpx.URL("http://hooks.example/"), "bob")
        assert await addresses.resolve(httpx.URL("http://hooks.example/"), "alice") == ["8.8.8.8"]
        assert addresses.hanging() == {"bob": 2}
        going_on.set()
        while addresses.hanging().total():
            await asyncio.sleep(0.01)
        assert await addresses.resolve(httpx.URL("http://hooks.example/"), "bob") == ["8.8.8.8"]

    asyncio.run(asked())


def test_without_a_thread_to_look_up_in_it_is_told_so_and_takes_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookups, "AT_ONCE", 1)

    def start(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def asked() -> None:
        looking_up = lookups.Lookups()
        for _ in range(2):
            with monkeypatch.context() as patch:
                patch.setattr(threading.Thread, "start", start)
                with pytest.raises(OSError, match="no thread") as told:
                    await looking_up.find("bob", "hooks.example", 80)
            assert told.value.errno == socket.EAI_AGAIN
        assert await looking_up.find("bob", "127.0.0.1", 80) == ["127.0.0.1"]

    asyncio.run(asked())
