"""A hub that can't be asked: one line that says with which address and which proxies it was tried."""

import errno
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import httpx
import huggingface_hub
import pytest
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from pydantic import ValidationError

from jobs.settings import Settings
from pipeline import TINY_CHECKPOINT, CheckpointError
from pipeline.checkpoint.config import AwayError, NoRoomError
from pipeline.checkpoint.sources import commit_of, locate
from support.private_tls import Authority
from support.proxying import proxy, set_proxies
from worker.loading import find_checkpoint, load_pipeline

NAME = "no-such/checkpoint"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


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


def answered(kind: type[HfHubHTTPError], status: int) -> HfHubHTTPError:
    return kind(f"{status} of the hub", response=httpx.Response(status, request=httpx.Request("GET", "http://hub")))  # type: ignore[arg-type]


AWAY = r"^no-such/checkpoint: no such directory, and the hub does not give it: "
REFUSED = r"^no-such/checkpoint: no such directory, and no such hub id: "
KEPT = r"^no-such/checkpoint: can't be kept in .* \(HF_HOME\): "


@pytest.mark.parametrize(
    ("error", "kind", "told"),
    [
        (RuntimeError("Data processing error: CAS service error : Error : single flight error"), AwayError, AWAY),
        (RuntimeError("Data processing error: CAS service error : IO Error: Timer expired"), AwayError, AWAY),
        (LocalEntryNotFoundError("outgoing traffic has been disabled"), AwayError, AWAY),
        (answered(HfHubHTTPError, 503), AwayError, AWAY),
        (answered(HfHubHTTPError, 429), AwayError, AWAY),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), AwayError, AWAY),
        (answered(RepositoryNotFoundError, 401), CheckpointError, REFUSED),
        (answered(GatedRepoError, 403), CheckpointError, REFUSED),
        (HFValidationError("Repo id must use alphanumeric chars"), CheckpointError, REFUSED),
        (OSError(errno.ENOSPC, "No space left on device", "/hub/x.incomplete"), NoRoomError, KEPT + "No space left"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), NoRoomError, KEPT + "No space left"),
        (RuntimeError("Data processing error: IO Error: No space left on device (os error 28)"), NoRoomError, KEPT),
        (PermissionError(errno.EACCES, "Permission denied", "/hub"), CheckpointError, KEPT + "Permission denied$"),
        (RuntimeError("IO Error: Read-only file system (os error 30)"), CheckpointError, KEPT + "Read-only file"),
    ],
    ids=str,
)
def test_what_its_library_raises_is_sorted(
    monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type[Exception], told: str
) -> None:
    def fail(*_: Any, **__: Any) -> NoReturn:
        raise error

    set_proxies(monkeypatch)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(CheckpointError, match=told) as caught:
        locate(NAME)
    assert type(caught.value) is kind


def test_offline_and_not_in_its_cache_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> NoReturn:
        raise OfflineModeIsEnabled("offline")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(CheckpointError, match=r"\(HF_HOME\) lacks it, .* and HF_HUB_OFFLINE") as caught:
        locate(NAME)
    assert type(caught.value) is CheckpointError


@pytest.fixture
def cached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A checkpoint's commit in the hub's cache, which a tag and a branch point to; the hub itself is not asked."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "is_offline_mode", lambda: True, raising=False)
    repository = tmp_path / "models--no-such--checkpoint"
    commit = repository / "snapshots" / COMMIT
    commit.mkdir(parents=True)
    (commit / "model_index.json").touch()
    (repository / "refs" / "refs").mkdir(parents=True)
    for reference in ("v1.0", "main", "refs/pr-1"):
        (repository / "refs" / reference).write_text(COMMIT)
    return commit


@pytest.mark.parametrize("revision", [None, "main", "v1.0", COMMIT, "refs/pr-1"])
def test_a_revision_is_a_commit_a_tag_or_a_branch(cached: Path, revision: str | None) -> None:
    assert locate(NAME, revision=revision) == cached
    assert commit_of(cached) == COMMIT


def test_a_folder_of_one_s_own_has_no_commit(tmp_path: Path) -> None:
    assert commit_of(tmp_path / "snapshots" / "2026-12-02") is None


def test_a_revision_that_is_not_there_is_told(cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match=r"\(HF_HOME\) lacks its revision v2, "):
        locate(NAME, revision="v2")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)

    def fail(*_: Any, **__: Any) -> NoReturn:
        raise answered(RevisionNotFoundError, 404)

    set_proxies(monkeypatch)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(CheckpointError, match="the hub has it, but not its revision v2: 404 of the hub") as caught:
        locate(NAME, revision="v2")
    assert type(caught.value) is CheckpointError


@pytest.mark.parametrize("name", ["tiny", "s3://bucket/model", "{here}", "no/such/path"])
def test_what_has_no_revisions_is_refused_with_one(tmp_path: Path, name: str) -> None:
    name = name.format(here=tmp_path)
    with pytest.raises(CheckpointError, match=f"^{name}: there is no revision v1.0 of it: only a hub id org/name has"):
        find_checkpoint(Settings(), name, "v1.0")
    with pytest.raises(CheckpointError, match=r"^ZIMAGE_MODEL and ZIMAGE_MODEL_REVISION: "):
        load_pipeline(Settings(model=name, model_revision="v1.0", device="cpu"))


@pytest.mark.parametrize("value", ["", " ", "-x", "../main", "a..b", "v 1", "a/", "/a", "ä"])
def test_no_revision_is_taken_that_can_be_none(value: str) -> None:
    with pytest.raises(ValidationError, match="must be a commit, tag or branch of the hub"):
        Settings(model_revision=value)


def test_the_commit_that_is_loaded_is_told(cached: Path, caplog: pytest.LogCaptureFixture) -> None:
    (cached / "model_index.json").unlink()
    shutil.copytree(TINY_CHECKPOINT, cached, dirs_exist_ok=True)
    caplog.set_level(logging.INFO)
    _, name, commit = load_pipeline(Settings(model=NAME, model_revision="v1.0", device="cpu"))
    assert (name, commit) == (NAME, COMMIT)
    assert f"ZIMAGE_MODEL: {NAME} at the hub's commit {COMMIT}" in caplog.text
