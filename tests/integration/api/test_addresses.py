"""Where webhooks may go: no way of writing a private address gets through, at submit or at delivery."""

import asyncio
import json
import re
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme
from fastapi.testclient import TestClient

from api import submission
from api.app import create_app
from api.webhooks import lookups
from api.webhooks.addresses import AddressError, Addresses, PinnedTransport, is_public
from cli.stack import Stack
from jobs.keys import KeysFile
from jobs.settings import Settings
from support.receiving import SECRET, pointing_to, receiver
from support.waiting import wait_until

OWNER = "someone"
JOB = {"prompt": "a cat", "width": 64, "height": 64}
PUBLIC = "93.184.215.14"

REFUSED = [
    "http://127.0.0.1/",
    "http://127.8.9.10:8000/",
    "http://localhost/",
    "http://localhost./",
    "http://LOCALHOST:6379/",
    "http://2130706433/",  # 127.0.0.1 in decimal
    "http://0177.0.0.1/",  # in octal
    "http://0x7f000001/",  # in hexadecimal
    "http://0x7f.1/",
    "http://127.1/",
    "http://0.0.0.0/",
    "http://0/",
    "http://10.0.0.1/",
    "http://172.16.0.1/",
    "http://172.31.255.255/",
    "http://192.168.1.1/",
    "http://3232235777/",  # 192.168.1.1
    "http://169.254.169.254/latest/meta-data/",
    "http://2852039166/",  # 169.254.169.254
    "http://0xa9fea9fe/",
    "http://100.64.0.1/",  # shared (CGNAT)
    "http://100.100.100.200/",  # metadata of Alibaba Cloud
    "http://168.63.129.16/",  # metadata of Azure
    "http://34.118.239.255/",  # a Service of GKE
    "http://192.0.0.192/",  # metadata of Oracle Cloud
    "http://192.0.2.1/",  # documentation
    "http://198.18.0.1/",  # benchmarks
    "http://192.88.99.1/",  # 6to4 relays
    "http://192.175.48.6/",  # AS112
    "http://[2620:4f:8000::1]/",
    "http://224.0.0.1/",
    "http://240.0.0.1/",
    "http://255.255.255.255/",
    "http://[::1]/",
    "http://[::]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:7f00:1]/",
    "http://[::ffff:169.254.169.254]/",
    "http://[::127.0.0.1]/",  # IPv4-compatible
    "http://[64:ff9b::7f00:1]/",  # NAT64
    "http://[64:ff9b:1::7f00:1]/",
    "http://[2002:7f00:1::]/",  # 6to4
    "http://[2001:0:7f00:1::]/",  # Teredo
    "http://[2001:db8::1]/",
    "http://[3fff::1]/",
    "http://[fe80::1]/",
    "http://[fe80::1%25lo]/",
    "http://[fec0::1]/",
    "http://[fc00::1]/",
    "http://[fd00:ec2::254]/",  # metadata of AWS
    "http://[ff02::1]/",
    "http://%31%32%37.0.0.1/",
    "http://１２７.０.０.１/",
    "http://①②⑦.0.0.1/",
    "http://8.8.8.8@127.0.0.1/",
    "http://127.0.0.1#@8.8.8.8/",
    "http://8.8.8.8\\@127.0.0.1/",
    "http://user:word@8.8.8.8/",
    "http://8.8.8.8:25/",
    "http://8.8.8.8:0/",
    "http://8.8.8.8:99999/",
    f"http://{'a' * 64}.example/",
    "http://a..b/",
    "http:///hook",
    "//8.8.8.8/",
    "8.8.8.8",
    "ftp://8.8.8.8/",
    "file:///etc/passwd",
    "gopher://8.8.8.8/",
    "unix:///var/run/docker.sock",
    "http://8.8.8.8/\ud800",
    "http://8.8.8.8/\r\nHost: 127.0.0.1",
    f"http://8.8.8.8/{'x' * 2048}",
    "",
]


def api(servers: Stack, **settings: object) -> TestClient:
    prefix = f"addresses-{time.time_ns()}:"
    common = {"redis_url": servers.redis_url, "redis_prefix": prefix, "s3_endpoint": servers.s3_url}
    return TestClient(create_app(Settings(**common, **settings)), base_url="http://127.0.0.1")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def http(servers: Stack) -> Iterator[TestClient]:
    with pytest.MonkeyPatch.context() as patch, api(servers, webhook_secret=SECRET) as client:
        patch.setattr(submission, "REFUSAL_SECONDS", 0)  # or it takes long to try that many
        yield client


@pytest.mark.parametrize("url", REFUSED)
def test_a_webhook_into_a_private_network_is_refused_at_submit(http: TestClient, url: str) -> None:
    body = json.dumps({**JOB, "webhook_url": url})
    answer = http.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422, answer.text
    (error,) = answer.json()["errors"]
    assert error["pointer"] == "/webhook_url"
    assert error["detail"]


@pytest.mark.parametrize("url", ["http://8.8.8.8/", "https://1.1.1.1:8443/a?b=c", "http://[2606:4700:4700::1111]/"])
def test_a_public_address_is_taken(http: TestClient, url: str) -> None:
    answer = http.post("/v1/jobs", json={**JOB, "webhook_url": url})
    assert answer.status_code == 202, answer.text
    assert answer.json()["input"]["webhook_url"] == url


Names = dict[str, Callable[[], str]]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    """What gives a name's address; all other names are resolved as ever."""
    chosen: Names = {}
    resolve = socket.getaddrinfo

    def getaddrinfo(host: str, *args: Any, **kwargs: Any) -> Any:
        return resolve(chosen[host]() if host in chosen else host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return chosen


def failing(number: int) -> Callable[[], str]:
    def fail() -> str:
        raise socket.gaierror(number, "as a resolver says it")

    return fail


@pytest.mark.parametrize(
    ("number", "status", "code"),
    [(socket.EAI_NONAME, 422, "invalid_request"), (socket.EAI_AGAIN, 503, "resolver_unavailable")],
)
def test_a_name_that_is_none_is_told_from_one_that_can_t_be_looked_up_now(
    http: TestClient, names: Names, number: int, status: int, code: str
) -> None:
    names["hooks.example"] = failing(number)
    answer = http.post("/v1/jobs", json={**JOB, "webhook_url": "http://hooks.example/"})
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert ("retry-after" in answer.headers) == (status == 503)
    assert "/webhook_url: hooks.example can't be resolved" in answer.json()["detail"]


def test_a_name_that_is_none_and_one_inside_the_network_are_told_alike(
    http: TestClient, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "REFUSAL_SECONDS", 0.2)
    names["none.example"] = failing(socket.EAI_NONAME)
    names["inside.example"] = lambda: "10.0.0.7"
    told = []
    for host in ("none", "inside"):
        begun = time.monotonic()
        answer = http.post("/v1/jobs", json={**JOB, "webhook_url": f"http://{host}.example/"})
        assert answer.status_code == 422
        assert time.monotonic() - begun >= 0.2  # not as soon as it is known
        told.append(answer.json()["detail"].replace(host, "HOST"))
    assert told[0] == told[1]


def test_a_job_is_found_again_by_its_key_when_its_webhook_s_name_is_gone(http: TestClient, names: Names) -> None:
    request: dict[str, Any] = {
        "json": {**JOB, "webhook_url": "http://hooks.example/"},
        "headers": {"Idempotency-Key": "once"},
    }
    names["hooks.example"] = lambda: PUBLIC
    first = http.post("/v1/jobs", **request)
    names["hooks.example"] = failing(socket.EAI_NONAME)
    again = http.post("/v1/jobs", **request)
    assert (first.status_code, again.status_code) == (202, 200)
    assert again.json()["id"] == first.json()["id"]


class Hanging:
    """A name server that doesn't answer, until it is let go on."""

    def __init__(self) -> None:
        self._asked, self._going_on = threading.Semaphore(0), threading.Event()

    def __call__(self) -> str:
        self._asked.release()
        self._going_on.wait(60)
        return PUBLIC

    def asked(self, times: int) -> None:
        """Return when it was asked that many times more."""
        assert all(self._asked.acquire(timeout=30) for _ in range(times))

    def go_on(self) -> None:
        self._going_on.set()


def test_names_that_hang_at_submit_hold_up_no_other_key_s(
    servers: Stack, names: Names, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookups, "SECONDS", 1.0)
    names["hooks.example"] = lambda: PUBLIC
    names["dead.example"] = hanging = Hanging()
    keys = KeysFile(tmp_path / "keys.json")
    alice, bob = keys.create("alice"), keys.create("bob")

    def post(key: str, host: str) -> httpx.Response:
        body = {**JOB, "webhook_url": f"http://{host}.example/"}
        return http.post("/v1/jobs", json=body, headers={"Authorization": f"Bearer {key}"})

    keyed = api(servers, webhook_secret=SECRET, api_keys_file=tmp_path / "keys.json")
    with keyed as http, ThreadPoolExecutor(65) as pool:
        many = [pool.submit(post, bob, "dead") for _ in range(64)]
        hanging.asked(lookups.AT_ONCE)
        own = pool.submit(post, bob, "hooks")
        assert [post(alice, "hooks").status_code for _ in range(3)] == [202] * 3
        refused = own.result()
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_lookups")
        assert "/webhook_url: hooks.example was not looked up" in refused.json()["detail"]
        assert int(refused.headers["retry-after"]) > 0
        assert Counter(sent.result().status_code for sent in many) == {503: lookups.AT_ONCE, 429: 64 - lookups.AT_ONCE}
        hanging.go_on()
        wait_until(lambda: post(bob, "hooks").status_code == 202)


def test_names_that_hang_at_delivery_hold_up_no_submit(servers: Stack, names: Names) -> None:
    hanging = Hanging()
    with api(servers, webhook_secret=SECRET) as http:
        names["hooks.example"] = lambda: PUBLIC
        urls = [
            http.post("/v1/jobs", json={**JOB, "webhook_url": "http://hooks.example/"}).json()["urls"]
            for _ in range(lookups.AT_ONCE)
        ]
        names["hooks.example"] = hanging
        for url in urls:
            http.post(url["cancel"])  # its webhook is to be told
        hanging.asked(lookups.AT_ONCE)
        assert http.post("/v1/jobs", json={**JOB, "webhook_url": "http://8.8.8.8/"}).status_code == 202
        hanging.go_on()


def test_private_addresses_can_be_allowed(servers: Stack) -> None:
    with api(servers, webhook_secret=SECRET, webhook_allow_private=True) as http:
        for url, status in [("http://localhost:8080/", 202), ("http://user:word@localhost/", 422)]:
            assert http.post("/v1/jobs", json={**JOB, "webhook_url": url}).status_code == status


def test_without_a_secret_no_webhook_is_taken(servers: Stack) -> None:
    with api(servers) as http:
        answer = http.post("/v1/jobs", json={**JOB, "webhook_url": "http://8.8.8.8/"})
        assert answer.status_code == 422
        [error] = answer.json()["errors"]
        assert error["detail"] == "this service sends no webhooks: leave it out, and poll the job"
        assert http.post("/v1/jobs", json={**JOB, "webhook_url": None}).status_code == 202


def post(url: str, addresses: Addresses, verify: ssl.SSLContext | bool = True) -> httpx.Response:
    async def sent() -> httpx.Response:
        async with httpx.AsyncClient(transport=PinnedTransport(addresses, verify)) as client:
            return await client.post(url, content=b"{}", extensions={"owner": OWNER})

    return asyncio.run(sent())


@pytest.mark.parametrize("url", [url for url in REFUSED if re.match("http://[^/]", url) and "8.8.8.8" not in url])
def test_a_connection_into_a_private_network_is_refused(url: str) -> None:
    with pytest.raises((AddressError, httpx.InvalidURL, httpx.UnsupportedProtocol)):
        post(url, Addresses(allow_private=False))


@pytest.mark.parametrize("answer", [["127.0.0.1"], [PUBLIC, "127.0.0.1"], ["::1", PUBLIC], ["fe80::1%lo"], []])
def test_a_name_that_points_into_a_private_network_is_refused(answer: list[str]) -> None:
    with receiver() as listening:
        url = listening.url.replace("127.0.0.1", "hooks.example")
        with pytest.raises(AddressError, match="hooks"):
            post(url, Addresses(allow_private=False, lookup=pointing_to(*answer)))
        assert listening.requests == []


def test_a_name_that_points_elsewhere_the_next_time_is_refused_then() -> None:
    answers = iter([[PUBLIC], ["127.0.0.1"]])
    addresses = Addresses(allow_private=False, lookup=lambda _host, _port: next(answers))
    with receiver() as listening:
        url = listening.url.replace("127.0.0.1", "rebinding.example")
        assert asyncio.run(addresses.resolve(httpx.URL(url), OWNER)) == [PUBLIC]  # at submit
        with pytest.raises(AddressError):
            post(url, addresses)
        assert listening.requests == []


def test_the_connection_goes_to_the_address_that_was_looked_at_under_the_name() -> None:
    asked: list[str] = []

    def lookup(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return ["127.0.0.9", "127.0.0.1"]  # nobody listens at the first

    with receiver() as listening:
        url = listening.url.replace("127.0.0.1", "hooks.example")
        assert post(url, Addresses(allow_private=True, lookup=lookup)).status_code == 204
        assert asked == ["hooks.example"]
        assert listening.requests[0].headers["host"] == url.split("/")[2]


@pytest.mark.parametrize(("name", "trusted"), [("hooks.example", True), ("other.example", False)])
def test_the_certificate_must_be_the_names(name: str, trusted: bool) -> None:
    authority = trustme.CA()
    server, client = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert(name).configure_cert(server)
    authority.configure_trust(client)
    addresses = Addresses(allow_private=True, lookup=pointing_to("127.0.0.1"))
    with receiver(tls=server) as listening:
        url = listening.url.replace("127.0.0.1", "hooks.example")
        if trusted:
            assert post(url, addresses, client).status_code == 204
        else:
            with pytest.raises(httpx.ConnectError, match="hooks"):
                post(url, addresses, client)
        assert len(listening.requests) == trusted


@pytest.mark.parametrize("address", [PUBLIC, "8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8"])
def test_what_is_public(address: str) -> None:
    assert is_public(address)
