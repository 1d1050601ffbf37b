"""How both clients, and the command, reach a service: by the environment's proxies, but loopback never."""

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from support.loopback import serving
from support.private_tls import Authority
from support.proxying import proxy, set_proxies
from zimage import AsyncZImageClient, ServiceError, ZImageClient, retries

JOB = {"id": "job_1", "status": "queued"}
ELSEWHERE = "http://service.example:8000"


class Service(BaseHTTPRequestHandler):
    """Answers everything with a job, if it is asked at the right path."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path in ("/v1/jobs/job_1", "/zimage/v1/jobs/job_1") else 404)
        self.end_headers()
        self.wfile.write(json.dumps(JOB).encode())

    def log_message(self, *arguments: object) -> None:
        pass


def ask(url: str) -> Any:
    with ZImageClient(url) as client:
        return client.get("job_1")


def ask_async(url: str) -> Any:
    async def asked() -> Any:
        async with AsyncZImageClient(url) as client:
            return await client.get("job_1")

    return asyncio.run(asked())


Ask = Callable[[str], Any]


@pytest.fixture(params=[ask, ask_async], ids=["sync", "async"])
def get(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Ask:
    monkeypatch.setattr(retries, "STRANGER_SECONDS", 0.0)
    chosen: Ask = request.param
    return chosen


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    with serving(Service) as url:
        yield url


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("value", ["http://127.0.0.1:9", "socks5://127.0.0.1:9", "nonsense://", "http://[::1"])
def test_loopback_needs_no_proxy(
    monkeypatch: pytest.MonkeyPatch, get: Ask, service: str, name: str, value: str
) -> None:
    set_proxies(monkeypatch, **{name: value, "NO_PROXY": "example.com,[::1]"})
    assert get(service) == JOB


@pytest.mark.parametrize("end", ["", "/", "/v1", "/v1/", "/zimage", "/zimage/v1/", "//"])
def test_the_address_is_taken_with_v1_and_without(get: Ask, service: str, end: str) -> None:
    assert get(service + end) == JOB


def test_what_is_elsewhere_is_asked_for_through_the_proxy(
    monkeypatch: pytest.MonkeyPatch, get: Ask, service: str
) -> None:
    with proxy(to=service) as passing:
        set_proxies(monkeypatch, http_proxy=passing.url, NO_PROXY="10.0.0.0/8")
        assert get(ELSEWHERE) == JOB
    assert passing.asked == [f"{ELSEWHERE}/v1/jobs/job_1"]


def test_a_proxy_that_refuses_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch, get: Ask) -> None:
    with proxy() as refusing:
        host = refusing.url.removeprefix("http://")
        set_proxies(monkeypatch, ALL_PROXY=f"http://me:secret@{host}")
        for url, told in ((ELSEWHERE, "answered 403"), ("https://service.example", "403 Forbidden")):
            with pytest.raises(ServiceError, match=told) as caught:
                get(url)
            assert f"through the proxy ALL_PROXY=http://***@{host}" in str(caught.value)
            assert "secret" not in str(caught.value)
    assert [url.removesuffix("/v1/jobs/job_1") for url in refusing.asked] == [ELSEWHERE, "service.example:443"]


@contextmanager
def hanging_up() -> Iterator[str]:
    """A server that answers anything with a word and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with closing(connection):
                    connection.recv(100)
                    connection.sendall(b"what?")

        threading.Thread(target=answer, daemon=True).start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)


def test_what_does_not_speak_as_a_proxy_is_named(monkeypatch: pytest.MonkeyPatch, get: Ask) -> None:
    with hanging_up() as host:
        for scheme in ("socks5", "socks5h", "http"):
            set_proxies(monkeypatch, HTTP_PROXY=f"{scheme}://{host}")
            with pytest.raises(ServiceError, match=rf"through the proxy HTTP_PROXY={scheme}://{host} \(.+NO_PROXY"):
                get(ELSEWHERE)


@pytest.mark.parametrize("value", ["socks5://127.0.0.1:9", "http://127.0.0.1:9", "127.0.0.1:9"])
def test_a_proxy_that_is_away_is_named(monkeypatch: pytest.MonkeyPatch, get: Ask, value: str) -> None:
    set_proxies(monkeypatch, HTTP_PROXY=value)
    with pytest.raises(ServiceError, match=f"can't be reached through the proxy HTTP_PROXY={value} ") as caught:
        get(ELSEWHERE)
    assert caught.value.code == "unreachable"


def test_a_proxy_that_is_none_is_told(monkeypatch: pytest.MonkeyPatch, get: Ask) -> None:
    set_proxies(monkeypatch, HTTP_PROXY="http://me:secret@proxy:port")
    with pytest.raises(ServiceError, match=r"^HTTP_PROXY=…: names no proxy") as caught:
        get(ELSEWHERE)
    assert caught.value.code == "invalid_proxy"


def test_socks_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch, get: Ask) -> None:
    monkeypatch.setitem(__import__("sys").modules, "socksio", None)
    set_proxies(monkeypatch, ALL_PROXY="socks5://127.0.0.1:9")
    with pytest.raises(ServiceError, match=r"^ALL_PROXY=socks5://127.0.0.1:9: SOCKS .* pip install 'httpx\[socks\]'"):
        get(ELSEWHERE)


@pytest.mark.parametrize("url", ["http://a..b", f"http://{'a' * 64}.example"])
def test_a_name_that_can_be_none_is_told(monkeypatch: pytest.MonkeyPatch, get: Ask, url: str) -> None:
    set_proxies(monkeypatch)
    with pytest.raises(ServiceError, match=r"can be no host's name|can't be reached"):
        get(url)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def test_who_may_be_trusted_is_told_and_then_is(
    monkeypatch: pytest.MonkeyPatch, get: Ask, service: str, authority: Authority
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    with authority.before(int(service.rpartition(":")[2])) as secured:
        url = f"https://localhost:{secured.port}"
        with pytest.raises(ServiceError, match=r"can't be reached .+ name the authority .+ in SSL_CERT_FILE$"):
            get(url)
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.bundle))
        assert get(url) == JOB


@pytest.mark.parametrize(
    ("name", "told"),
    [("/no/where.pem", "No such file"), (__file__, "holds no certificates"), ("/", "expected a PEM file")],
)
def test_a_file_of_authorities_that_is_none_is_named_where_it_is_needed(
    monkeypatch: pytest.MonkeyPatch, get: Ask, service: str, name: str, told: str
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", name)
    assert get(service) == JOB
    with pytest.raises(ServiceError, match=f"^SSL_CERT_FILE: {name}: .*{told}") as caught:
        get("https://localhost:9")
    assert caught.value.code == "invalid_authorities"
