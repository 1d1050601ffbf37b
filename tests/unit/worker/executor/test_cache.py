"""Where the service keeps what it can make or fetch again."""

import os
import tempfile
from pathlib import Path

import pytest

from jobs.settings import Settings
from network import file_systems
from worker.executor.kernel_cache import keep_kernels


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, "/home/someone/.cache/zimage"),
        ({"XDG_CACHE_HOME": "/caches"}, "/caches/zimage"),
        ({"XDG_CACHE_HOME": "/caches", "ZIMAGE_CACHE_DIR": "/mine"}, "/mine"),
    ],
)
def test_the_cache_is_the_users_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], expected: str
) -> None:
    for name in ("XDG_CACHE_HOME", "ZIMAGE_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/someone", **environ}.items():
        monkeypatch.setenv(name, value)

    assert Settings().cache_dir == Path(expected)


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """An environment that says nothing of Triton, and a temporary directory of its own."""
    for name in ("TRITON_CACHE_DIR", "TRITON_CACHE_MANAGER"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return monkeypatch


def as_type(tmp_path: Path, file_system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the kernel tell of another file system where the test's files are."""
    device = tmp_path.stat().st_dev
    place = f"{os.major(device)}:{os.minor(device)}"
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "21 1 0:999 / / rw,relatime - overlay overlay rw\n"
        f"36 21 {place} /export /some\\040where rw,noatime master:1 - {file_system} server:/export rw,vers=4.2\n"
    )
    monkeypatch.setattr(file_systems, "MOUNTS", mounts)


def test_kernels_are_kept_in_it(environ: pytest.MonkeyPatch, tmp_path: Path) -> None:
    keep_kernels(tmp_path / "cache")
    assert os.environ["TRITON_CACHE_DIR"] == str(tmp_path / "cache/triton")


@pytest.mark.parametrize("file_system", ["nfs4", "cifs", "lustre", "ceph", "fuse.gcsfuse", "9p", "beegfs"])
def test_kernels_are_kept_on_this_machine_where_the_cache_is_not(
    environ: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture, file_system: str
) -> None:
    as_type(tmp_path, file_system, environ)
    caplog.set_level("INFO")
    for _ in range(2):
        environ.delenv("TRITON_CACHE_DIR", raising=False)
        keep_kernels(tmp_path / "cache")
        folder = Path(os.environ["TRITON_CACHE_DIR"])
        assert (folder.parent, folder.stat().st_mode & 0o777) == (tmp_path, 0o700)
        (folder / "found again").touch()
    assert file_system in caplog.text
    assert str(folder) in caplog.text
    assert len(list(tmp_path.glob("zimage-kernels-*"))) == 1


def test_kernels_are_kept_where_the_environment_says(
    environ: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    as_type(tmp_path, "nfs4", environ)
    environ.setenv("TRITON_CACHE_DIR", "/mine")
    caplog.set_level("INFO")
    keep_kernels(tmp_path / "cache")
    assert os.environ["TRITON_CACHE_DIR"] == "/mine"
    assert caplog.text == ""


@pytest.mark.parametrize("planted", ["open to all", "a link", "a file"])
def test_what_others_may_have_put_there_is_not_run(environ: pytest.MonkeyPatch, tmp_path: Path, planted: str) -> None:
    as_type(tmp_path, "nfs4", environ)
    folder = tmp_path / f"zimage-kernels-{os.getuid()}"
    if planted == "a file":
        folder.touch()
    elif planted == "a link":
        folder.symlink_to("/elsewhere")
    else:
        folder.mkdir()
        folder.chmod(0o777)
    keep_kernels(tmp_path / "cache")
    kept = Path(os.environ["TRITON_CACHE_DIR"])
    assert kept != folder
    assert kept.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("file_system", ["ext4", "xfs", "zfs", "overlay", "tmpfs", "fuseblk"])
def test_a_disk_of_this_machine_is_none_of_a_network(
    environ: pytest.MonkeyPatch, tmp_path: Path, file_system: str
) -> None:
    as_type(tmp_path, file_system, environ)
    assert file_systems.remote_type(tmp_path / "not/there/yet") is None


def test_without_mounts_to_read_all_is_of_this_machine(environ: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environ.setattr(file_systems, "MOUNTS", tmp_path / "no Linux")
    assert file_systems.remote_type(tmp_path) is None
