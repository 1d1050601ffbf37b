"""A hub that can't be asked: one line that says with which address and which proxies it was tried."""

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest

from jobs.settings import Settings
from pipeline import CheckpointError
from pipeline.checkpoint.sources import locate
from support.private_tls import Authority
from support.proxying import proxy, set_proxies
from worker.loading import find_checkpoint

NAME = "no-such/checkpoint"


def refusal() -> str:
    with pytest.raises(CheckpointError, match=rf"^{NAME}: ") as caught:
        locate(NAME)
    told = str(caught.value)
    assert "\n" not in told
    assert "secret" not in told
    return told


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Nobody is at the hub's address, and nothing in its cache; its library reads the environment anew."""
    monkeypatch.setenv("HF_ENDPOINT", "http://me:secret@127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    huggingface_hub.close_session()
    yield
    huggingface_hub.close_session()


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"ALL_PROXY": "socks5://127.0.0.1:9"},
        {"http_proxy": "http://me:secret@127.0.0.1:9", "NO_PROXY": "localhost,[::1]"},
        {"HTTP_PROXY": "127.0.0.1:9", "all_proxy": "socks5h://127.0.0.1:9"},
    ],
)
def test_it_is_told_with_what_the_environment_says(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    set_proxies(monkeypatch, **variables)
    told = refusal()
    for name, value in {"HF_ENDPOINT": "http://me:secret@127.0.0.1:9", **variables}.items():
        assert f"{name}={value.replace('me:secret', '***')}" in told


@pytest.mark.parametrize("value", ["http://me:secret@proxy:port", "socks://127.0.0.1:9", "proxy:0"])
def test_a_proxy_that_is_none_is_told(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    set_proxies(monkeypatch, HTTPS_PROXY=value)
    assert "HTTPS_PROXY=…: names no proxy" in refusal()


@pytest.mark.parametrize(
    "endpoint",
    [
        *("http://[::1", "huggingface.example", "http://hub:port", "ftp://hub", "http://me:secret", "me:secret@hub"),
        *("http://me:secret/x@hub", "http://hub\n"),
    ],
)
def test_an_address_that_is_none_is_told(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    set_proxies(monkeypatch)
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
    assert "HF_ENDPOINT names no server: expected" in refusal()


def test_a_proxy_that_refuses_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with proxy() as refusing:
        set_proxies(monkeypatch, HTTP_PROXY=refusing.url)
        assert f"HTTP_PROXY={refusing.url}" in refusal()
    assert refusing.asked


def test_a_certificate_that_nobody_known_has_signed_is_told_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    set_proxies(monkeypatch)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    with Authority(tmp_path).before(9) as secured:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"https://localhost:{secured.port}")
        with pytest.raises(CheckpointError, match=r"name the authority that signed .* in ZIMAGE_CA_BUNDLE$"):
            find_checkpoint(Settings(), NAME)
