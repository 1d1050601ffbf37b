"""A checkpoint on a network file system is read ahead, and what is loaded is the same."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from bench import loading
from pipeline.checkpoint import read_ahead
from pipeline.checkpoint.components import Checkpoint
from pipeline.checkpoint.random import write_random_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("random") / "checkpoint"
    write_random_checkpoint(path)
    return path


def load(path: Path) -> dict[str, torch.Tensor]:
    return Checkpoint(path).transformer.load(torch.device("cpu"), None).state_dict()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.fixture
def fuse(checkpoint: Path) -> Iterator[Path]:
    try:
        import mfusepy  # noqa: F401
    except (ImportError, OSError):
        pytest.skip("there is no mfusepy, or no libfuse 3")
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
        pytest.skip("mounting needs root and /dev/fuse")
    with loading.slow(checkpoint, milliseconds=1) as mount:
        yield mount


def test_a_checkpoint_on_fuse_is_loaded(fuse: Path, checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert same(load(fuse), load(checkpoint))
    assert [record.message for record in caplog.records] == [f"{fuse / 'transformer'}: on fuse, so it is read ahead"]


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Where each piece that was read starts, and its bytes."""
    pread, pieces = os.pread, []

    def noted(file: int, length: int, start: int) -> bytes:
        found = pread(file, length, start)
        pieces.append((start, len(found)))
        return found

    monkeypatch.setattr(os, "pread", noted)
    return pieces


def test_all_of_a_file_is_read_in_pieces_once_and_closed(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, pieces: list[tuple[int, int]]
) -> None:
    monkeypatch.setattr(read_ahead, "remote_type", lambda _: "nfs4")
    monkeypatch.setattr(read_ahead, "PIECE", 1000)
    (file,) = (checkpoint / "transformer").glob("*.safetensors")
    before, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    loaded = load(checkpoint)
    while threading.active_count() > threads:
        time.sleep(0.01)
    assert sorted(start for start, _ in pieces) == list(range(0, file.stat().st_size, 1000))
    assert sum(length for _, length in pieces) == file.stat().st_size
    del loaded
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_that_can_not_be_read_ahead_stops_nothing(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: int) -> bytes:
        raise OSError(5, "Input/output error")

    plain = load(checkpoint)
    monkeypatch.setattr(os, "pread", broken)
    monkeypatch.setattr(read_ahead, "remote_type", lambda _: "fuse.sshfs")
    assert same(load(checkpoint), plain)


def test_what_is_on_this_machine_is_let_be(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, pieces: list[tuple[int, int]]
) -> None:
    monkeypatch.setattr(read_ahead, "remote_type", lambda _: None)
    load(checkpoint)
    assert pieces == []
