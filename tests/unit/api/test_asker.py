"""For whom a request without a key is counted: the client's address, as far as those who tell it are trusted."""

import asyncio

import pytest
from starlette.types import Message, Receive, Scope, Send

from api.http.auth import Identification
from api.http.prefix import BehindProxy

PROXY = "192.0.2.1"
CLIENT = "198.51.100.7"


def asker(trusted: str, monkeypatch: pytest.MonkeyPatch, *forwarded: str) -> str:
    """Return for whom a request is counted that the proxy sends with these `X-Forwarded-For`."""
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", trusted)
    scope: Scope = {
        "type": "http",
        "path": "/v1/jobs",
        "client": (PROXY, 50_000),
        "headers": [(b"x-forwarded-for", value.encode()) for value in forwarded],
        "state": {},
    }

    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        pass

    async def receive() -> Message:
        raise AssertionError

    async def send(_message: Message) -> None:
        raise AssertionError

    asyncio.run(BehindProxy(Identification(app, None), None)(scope, receive, send))
    told: str = scope["state"]["asker"]
    return told


@pytest.mark.parametrize("trusted", [PROXY, "192.0.2.0/24", "*"])
@pytest.mark.parametrize("before", [[], ["203.0.113.1"], ["203.0.113.1, 203.0.113.2"], ["not an address"]])
def test_a_trusted_proxy_tells_its_client_and_nobody_else_does(
    monkeypatch: pytest.MonkeyPatch, trusted: str, before: list[str]
) -> None:
    """What stands before its own word came from the client."""
    assert asker(trusted, monkeypatch, *before, CLIENT) == f"address {CLIENT}"
    assert asker(trusted, monkeypatch, ", ".join([*before, CLIENT])) == f"address {CLIENT}"


def test_a_stranger_is_not_asked_who_he_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asker("10.0.0.0/8", monkeypatch, CLIENT) == f"address {PROXY}"


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("198.51.100.7:4711", CLIENT),
        ("::ffff:198.51.100.7", CLIENT),
        ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        ("2001:db8:0:1:ffff::2", "2001:db8:0:1::/64"),
        ("[2001:db8:0:1::3]:4711", "2001:db8:0:1::/64"),
        ("2001:db8:0:2::1", "2001:db8:0:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unknown", "unknown"),
        ("a" * 10_000, "a" * 64),
    ],
)
def test_one_client_is_one_address(monkeypatch: pytest.MonkeyPatch, address: str, counted: str) -> None:
    assert asker(PROXY, monkeypatch, address) == f"address {counted}"
