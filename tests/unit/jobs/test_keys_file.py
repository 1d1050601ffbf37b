"""The file of API keys as operators' systems have it: links, other users, other hands, failing reads."""

import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jobs.keys import KeyRing, KeysFile, KeysFileError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.fixture
def file(path: Path) -> KeysFile:
    return KeysFile(path)


@contextmanager
def no_file_to_be_opened() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("folder", ["a file", "/proc"])  # no one's permissions help there, not even root's
def test_a_folder_that_takes_no_file_is_named(tmp_path: Path, folder: str) -> None:
    (tmp_path / "a file").touch()
    place = tmp_path / folder
    with pytest.raises(KeysFileError, match=f"no file can be written into {place}: ") as told:
        KeysFile(place / "keys.json").create("alice")
    assert str(told.value).startswith(f"{place}/keys.json: ")


def test_a_change_that_is_refused_is_told(path: Path, file: KeysFile) -> None:
    file.create("alice")
    before = path.read_bytes()
    small = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, small[1]))
    try:
        with pytest.raises(KeysFileError, match="File too large"):
            file.create("bob")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, small)
    assert path.read_bytes() == before


def test_a_read_that_failed_is_tried_again(path: Path, file: KeysFile) -> None:
    bob = file.create("bob")
    ring = KeyRing(path)
    file.revoke("bob")
    with no_file_to_be_opened():
        assert ring.find(bob) is not None  # nobody could know better
    assert ring.find(bob) is None


def test_a_failing_read_is_logged_once(path: Path, file: KeysFile, caplog: pytest.LogCaptureFixture) -> None:
    alice = file.create("alice")
    ring = KeyRing(path)
    path.write_text("{")
    for _ in range(3):
        assert ring.find(alice) is not None
    (told,) = caplog.messages
    assert str(path) in told


@pytest.mark.parametrize("broken", ["removed", "a folder", "half of it", "not to be read"])
def test_a_file_that_can_t_be_read_is_told_once_each_time(
    path: Path, file: KeysFile, caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    alice = file.create("alice")
    ring, aside = KeyRing(path), path.with_name("aside")
    assert ring.is_current()
    for times in (1, 2):
        path.rename(aside)  # and comes back as it was
        if broken == "a folder":
            path.mkdir()
        elif broken == "half of it":
            path.write_bytes(aside.read_bytes()[:40])
        elif broken == "not to be read":
            path.symlink_to(path)
        assert [ring.is_current() for _ in range(3)] == [False] * 3
        assert ring.find(alice) is not None
        if broken == "a folder":
            path.rmdir()
        aside.replace(path)
        assert ring.is_current()
        assert len([record for record in caplog.records if record.levelname == "ERROR"]) == times


def test_a_change_that_keeps_size_and_time_is_noticed(path: Path, file: KeysFile) -> None:
    alice = file.create("alice")
    before = path.stat()
    ring = KeyRing(path)
    (key,) = file.read()
    time.sleep(0.05)  # the kernel's clock ticks
    path.write_text(path.read_text().replace(key.sha256, 64 * "0"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert ring.find(alice) is None


def test_a_link_stays_and_the_file_it_leads_to_is_changed(tmp_path: Path) -> None:
    (tmp_path / "mounted").mkdir()
    link, target = tmp_path / "keys.json", tmp_path / "mounted" / "keys.json"
    link.symlink_to("mounted/keys.json")
    alice = KeysFile(link).create("alice")  # makes the file where the link leads
    ring = KeyRing(target)
    assert ring.find(alice) is not None
    KeysFile(link).revoke("alice")
    assert ring.find(alice) is None
    assert link.is_symlink()


def test_who_may_read_it_still_may(path: Path, file: KeysFile) -> None:
    groups = [65534] if os.geteuid() == 0 else [group for group in os.getgroups() if group != os.getegid()]
    if not groups:
        pytest.skip("this user has but one group")
    file.create("alice")
    os.chown(path, 65534 if os.geteuid() == 0 else -1, groups[0])
    path.chmod(0o640)

    def rights() -> tuple[int, int, int]:
        status = path.stat()
        return status.st_uid, status.st_gid, status.st_mode & 0o777

    before = rights()
    file.create("bob")
    file.revoke("alice")
    assert rights() == before


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_it_is_read_as_editors_save_it_and_kept_in_utf_8(path: Path, file: KeysFile, encoding: str) -> None:
    alice = file.create("alice")
    path.write_bytes(path.read_text().encode(encoding))
    assert KeyRing(path).find(alice) is not None

    file.create("bob")
    assert path.read_bytes().startswith(b"{")
    assert [key.name for key in file.read()] == ["alice", "bob"]


@pytest.mark.parametrize("content", ['{"keys": "Schl\u00fcssel"}'.encode("cp1252"), b"\xff\xfe{"])
def test_another_encoding_is_told(path: Path, file: KeysFile, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(KeysFileError, match=r"keys\.json: is neither UTF-8 nor UTF-16: save it as UTF-8$"):
        file.read()
    with pytest.raises(KeysFileError, match="neither UTF-8"):
        file.create("bob")
    assert path.read_bytes() == content


def test_only_a_missing_file_is_told_how_it_is_made(path: Path, file: KeysFile) -> None:
    with pytest.raises(KeysFileError, match="`zimage keys create` makes it"):
        file.read()
    path.mkdir()
    with pytest.raises(KeysFileError, match=r"keys\.json: Is a directory$"):
        file.read()
