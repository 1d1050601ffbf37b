"""Workers of one machine take different GPUs."""

import errno
import fcntl
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.root import ROOT
from worker.executor import gpu_claim
from worker.executor.gpu_claim import claim_first

GPUS = ("GPU-1", "GPU-2")
CLAIM = (
    "import sys; from pathlib import Path; from worker.executor.gpu_claim import claim_first\n"
    "print(claim_first(sys.argv[2:], Path(sys.argv[1])), flush=True)\n"
    "sys.stdin.read()"
)


class Worker:
    """A process that claims a GPU and lives until it is killed."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-c", CLAIM, str(folder), *GPUS]
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout
        self.gpu = GPUS[int(self.process.stdout.readline())]

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def test_each_worker_takes_another_gpu_and_the_one_of_a_dead_worker_is_free_again(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "gpus"
    workers = [Worker(folder) for _ in range(3)]
    try:
        # More workers than GPUs: the preferred one is shared.
        assert [worker.gpu for worker in workers] == ["GPU-1", "GPU-2", "GPU-1"]
        workers[1].kill()
        workers.append(Worker(folder))
        assert workers[-1].gpu == "GPU-2"
    finally:
        for worker in workers:
            worker.kill()


@pytest.fixture(autouse=True)
def given_back(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(gpu_claim, "_held", [])
    yield
    for file in gpu_claim._held:
        os.close(file)


def test_a_lock_that_nfs_gives_for_files_to_write_alone_is_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flock = fcntl.flock

    def as_nfs(file: int, operation: int) -> None:
        if fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", as_nfs)
    assert claim_first(GPUS, tmp_path) == 0


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EBADF, errno.ENOSYS, errno.EIO])
def test_a_file_system_without_locks_is_told_and_is_no_gpu_that_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def flock(file: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match=r"can't be locked \(.*\): '.*/GPU-1'$"):
        claim_first(GPUS, tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone can become another user")
def test_users_that_share_a_folder_know_of_each_other() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)  # noqa: S103 - for the other user
        assert claim_first(GPUS, Path(folder)) == 0
        gpu_claim._held.append(os.open(Path(folder, GPUS[1]), os.O_RDWR | os.O_CREAT, 0o644))
        os.seteuid(65534)
        try:
            assert claim_first(GPUS, Path(folder)) == 1
        finally:
            os.seteuid(0)
