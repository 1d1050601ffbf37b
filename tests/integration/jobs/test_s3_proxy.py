"""S3 through the environment's proxies: by those that are named for it, and told where one is in the way."""

from collections.abc import Iterator
from secrets import token_hex

import pytest

from cli.stack import Stack
from jobs.objects.images import ImageStore
from jobs.settings import Settings
from jobs.startup import UnreachableError, wait_for_s3
from network.proxies import ProxyError
from support.proxying import Proxy, proxy, set_proxies

ELSEWHERE = "http://s3.example:8333"


@pytest.fixture
def passing(servers: Stack, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, servers.environ()[name])
    with proxy(to=servers.s3_url) as running:
        yield running


def images(endpoint: str | None, **settings: object) -> ImageStore:
    prefix = f"proxied-{token_hex(4)}"
    return ImageStore(Settings(s3_endpoint=endpoint, s3_prefix=prefix, **settings), attempts=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "all_proxy"])
def test_what_is_elsewhere_is_reached_through_the_proxy(
    passing: Proxy, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    set_proxies(monkeypatch, **{variable: passing.url, "NO_PROXY": "[::1],10.0.0.0/8"})
    store = images(ELSEWHERE)
    key = store.key("job_1", 1, 0)
    store.put_png(key, b"png")
    assert store.get_png(key, 3) == b"png"
    assert passing.asked
    assert all(url.startswith(f"{ELSEWHERE}/zimage/") for url in passing.asked)


def test_an_address_that_boto3_is_told_is_too(passing: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    set_proxies(monkeypatch, HTTP_PROXY=passing.url)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", ELSEWHERE)
    images(None).check()
    assert [url.startswith((ELSEWHERE, "http://zimage.s3.example:8333")) for url in passing.asked] == [True]


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "all_proxy"])
def test_loopback_is_reached_without(
    passing: Proxy, servers: Stack, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    set_proxies(monkeypatch, **{variable: passing.url})
    images(servers.s3_url).check()
    assert passing.asked == []


def test_a_proxy_that_is_in_the_way_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(s3_endpoint=ELSEWHERE, startup_timeout=0)
    with proxy() as refusing:
        host = refusing.url.removeprefix("http://")
        set_proxies(monkeypatch, HTTP_PROXY=f"http://me:secret@{host}", NO_PROXY="example.org")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
        with pytest.raises(UnreachableError, match=r"ZIMAGE_S3_ENDPOINT.+403") as caught:
            wait_for_s3(ImageStore(settings, attempts=1), settings)
    assert f"through the proxy HTTP_PROXY=http://***@{host}" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert refusing.asked


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("socks5://127.0.0.1:9", "SOCKS: name an HTTP proxy, or s3.example in NO_PROXY"),
        ("ftp://me:secret@proxy", "names no proxy"),
    ],
)
def test_a_proxy_that_can_not_be_used_is_told(monkeypatch: pytest.MonkeyPatch, value: str, told: str) -> None:
    set_proxies(monkeypatch, ALL_PROXY=value)
    with pytest.raises(ProxyError, match=f"^ALL_PROXY=.+{told}") as caught:
        images(ELSEWHERE)
    assert "secret" not in str(caught.value)
    images("http://localhost:9", s3_public_endpoint=ELSEWHERE)  # which is only signed for
