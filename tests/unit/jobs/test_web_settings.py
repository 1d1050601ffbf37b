"""Settings that are judged at start: what is refused, and in which words."""

import pytest
from pydantic import ValidationError

from jobs.settings import Settings


@pytest.mark.parametrize(
    "path",
    [
        *("/", "zimage", "/zimage/", "//evil", "/a//b", "/a/../b", "/./a", "http://host/zimage", "/a b", "/a?b", "/é"),
        *("/zimage ", "\\zimage", "/a@b"),
    ],
)
def test_a_path_that_can_be_no_prefix_is_refused(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setenv("ZIMAGE_ROOT_PATH", path)
    with pytest.raises(ValidationError, match=r"must be a path such as /zimage, without a slash at its end"):
        Settings()


@pytest.mark.parametrize("path", ["", "/zimage", "/a/b", "/v1.5/x-y_z~", "/.well"])
def test_a_path_that_can_be_one_is_taken(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setenv("ZIMAGE_ROOT_PATH", path)
    assert Settings().root_path == path


@pytest.mark.parametrize(
    "origins",
    [
        *("app.example", "https://app.example/", "https://app.example/path", "https://", "null", "https://*.example"),
        *("https://a.example;https://b.example", "https://me@app.example", "https://bücher.example", "*,https://a.b"),
        *("https://app.example:99999", "https://app.example:0", "http://[:::]", "http://[::1", "http://a..b"),
        *("https://app.example:port", "https://app.example https://b.example", "file://", "https://a.b?me@c"),
    ],
)
def test_what_is_no_origin_is_refused(monkeypatch: pytest.MonkeyPatch, origins: str) -> None:
    monkeypatch.setenv("ZIMAGE_CORS_ORIGINS", origins)
    with pytest.raises(ValidationError, match=r"https://app\.example|name it alone") as refused:
        Settings()
    assert "me@" not in str(refused.value)  # a user name, and a password behind it


def test_origins_are_taken_as_browsers_write_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "ZIMAGE_CORS_ORIGINS",
        " https://App.Example:443 ,, http://[0:0::1]:3000,http://a.b:443,chrome-extension://abc,http://c.d:08080,",
    )
    taken = "https://app.example,http://[::1]:3000,http://a.b:443,chrome-extension://abc,http://c.d:8080"
    assert Settings().cors_origins == taken
