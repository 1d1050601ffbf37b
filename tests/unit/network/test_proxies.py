"""What the environment says about proxies, in all the ways in which people write it."""

import pytest

from network.proxies import ProxyError, all_variables, proxy_for
from support.proxying import set_proxies

PROXY = "http://proxy.example:3128"


def proxies(monkeypatch: pytest.MonkeyPatch, url: str, **variables: str) -> str | None:
    """Return the variable whose proxy an address is reached by."""
    set_proxies(monkeypatch, **variables)
    found = proxy_for(url)
    return found.name if found else None


@pytest.mark.parametrize(
    ("variables", "http", "https"),
    [
        ({}, None, None),
        ({"HTTP_PROXY": PROXY}, "HTTP_PROXY", None),
        ({"https_proxy": PROXY}, None, "https_proxy"),
        ({"Http_Proxy": PROXY}, "Http_Proxy", None),
        ({"ALL_PROXY": PROXY}, "ALL_PROXY", "ALL_PROXY"),
        ({"all_proxy": "socks5://a:1", "http_proxy": PROXY, "https_proxy": PROXY}, "http_proxy", "https_proxy"),
        ({"HTTP_PROXY": "http://other:1", "http_proxy": PROXY}, "http_proxy", None),
        ({"HTTP_PROXY": PROXY, "http_proxy": ""}, None, None),  # an empty one says: none
        ({"HTTP_PROXY": " "}, None, None),
    ],
)
def test_which_variable_counts(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], http: str | None, https: str | None
) -> None:
    assert proxies(monkeypatch, "http://s3.example/", **variables) == http
    assert proxies(monkeypatch, "https://s3.example/", **variables) == https


@pytest.mark.parametrize(
    "url",
    [
        *(
            "http://127.0.0.1:8000",
            "http://127.8.9.10",
            "http://localhost:8000",
            "http://LOCALHOST.",
            "https://[::1]:1",
        ),
        *("http://0.0.0.0:8000", "http://[::]:8000", "http://[::ffff:127.0.0.1]"),
        *("http://127.1:8000", "http://0x7f000001", "http://2130706433", "http://0"),  # as the system reads addresses
        *("http://app.localhost:3000", "http://localhost.localdomain", "http://ip6-localhost"),
    ],
)
def test_loopback_is_reached_directly(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    assert proxies(monkeypatch, url, HTTP_PROXY=PROXY, ALL_PROXY="nonsense://") is None


@pytest.mark.parametrize("host", ["localhost.example", "mylocalhost", "126.1", "1.127", "ip6-local"])
def test_what_only_looks_like_loopback_is_not(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    assert proxies(monkeypatch, f"http://{host}", ALL_PROXY=PROXY) == "ALL_PROXY"


@pytest.mark.parametrize("url", ["http://h:99999", "http://h:port", "http://[::1", "http://[h]"])
def test_what_is_no_address_has_no_proxy(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    assert proxies(monkeypatch, url, ALL_PROXY=PROXY) is None


NAME, V4, V6 = "http://s3.example.com:9000", "http://10.1.2.3:9000", "http://[fd00::7]:9000"


@pytest.mark.parametrize(
    ("no_proxy", "excepted"),
    [
        ("*", {NAME, V4, V6}),
        ("localhost,*", {NAME, V4, V6}),
        ("example.com", {NAME}),
        (".example.com", {NAME}),
        ("*.example.com", {NAME}),
        ("S3.Example.COM.", {NAME}),
        ("http://s3.example.com", {NAME}),
        ("s3.example.com:9000", {NAME}),
        ("s3.example.com:9001", set()),
        ("ample.com", set()),
        ("s3.example", set()),
        ("10.1.2.3", {V4}),
        ("10.1.2.3:9000,[fd00::7]:9001", {V4}),
        ("10.0.0.0/8", {V4}),
        ("10.1.2.0/24 , fd00::/8", {V4, V6}),
        ("11.0.0.0/8", set()),
        ("10.1.2", set()),
        ("[fd00::7]", {V6}),
        ("fd00::7", {V6}),
        ("[fd00::7]:9000", {V6}),
        ("[fd00::]/16", {V6}),
        ("localhost,[::1]", set()),
        ("localhost 127.0.0.1\texample.com", {NAME}),
        (",, ,", set()),
        (".", set()),
        ("[,]:,[::1,10.0.0.0/99,:80,://,%%,ü", set()),
        ("0.0.0.0/0,::/0", {V4, V6}),
    ],
)
def test_what_no_proxy_excepts(monkeypatch: pytest.MonkeyPatch, no_proxy: str, excepted: set[str]) -> None:
    told = {"ALL_PROXY": PROXY, "NO_PROXY": no_proxy}
    assert {url for url in (NAME, V4, V6) if proxies(monkeypatch, url, **told) is None} == excepted


@pytest.mark.parametrize(
    ("value", "url"),
    [
        ("proxy.example:3128", "http://proxy.example:3128"),
        ("//proxy.example:3128", "http://proxy.example:3128"),
        ("proxy", "http://proxy"),
        ("HTTP://proxy:3128/", "http://proxy:3128/"),
        ("http://me:se%40cret@proxy:3128", "http://me:se%40cret@proxy:3128"),
        ("socks5h://[::1]:1080", "socks5h://[::1]:1080"),
        (" http://10.0.0.1:8080\n", "http://10.0.0.1:8080"),
    ],
)
def test_a_proxy_is_read(monkeypatch: pytest.MonkeyPatch, value: str, url: str) -> None:
    set_proxies(monkeypatch, HTTPS_PROXY=value)
    found = proxy_for("https://hub.example")
    assert found
    assert found.url == url
    assert str(found) == f"HTTPS_PROXY={value.strip().replace('me:se%40cret', '***').lower().strip('/')}"


@pytest.mark.parametrize(
    "value",
    [
        *("ftp://proxy:1", "socks://proxy:1", "socks4://proxy:1", "http://", "http://:3128", "http://proxy:port"),
        *(
            "http://proxy:99999",
            "http://proxy:0",
            "http://[::1",
            "http://a..b:1",
            "http://pro xy:1",
            '"http://proxy:1"',
        ),
        *("http://me:secret@x@proxy:1", "http://me:secret/x@proxy:1", "me:secret#x@proxy:1", "http://me:secret?@p:1"),
        *("me:secret://x@proxy:1", "http://me:1/secret@proxy:1", "http://prox\x00y:1", "http://ü:1", "://", ":"),
        *("me:secret", "http://me:secret", "//me:secret", "http://proxy:1/secret", "http://proxy:1?key=secret"),
        *("http://proxy:1#secret", "socks5://me:secret", "secret://proxy:1", "http://me:secret\n@proxy:1"),
    ],
)
def test_a_proxy_that_is_none_is_told_in_a_line_without_its_password(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setattr("os.environ", {"Http_Proxy": value})  # an environment takes no NUL
    for read in (lambda: proxy_for("http://s3.example"), all_variables):
        with pytest.raises(ProxyError, match=r"^Http_Proxy=…: names no proxy") as caught:
            read()
        assert "socks5://HOST:PORT" in str(caught.value)
        assert "secret" not in str(caught.value)
        assert "\n" not in str(caught.value)


def test_what_is_not_asked_is_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    assert proxies(monkeypatch, "http://s3.example", HTTPS_PROXY="nonsense://", NO_PROXY="[") is None
