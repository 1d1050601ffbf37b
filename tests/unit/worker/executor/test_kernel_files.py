"""What Triton keeps of a kernel is read again only if all of it is there and whole."""

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FILES = {"add.cubin": b"\x7fELF and more", "add.ptx": "// PTX", "add.json": '{"name": "add"}'}


class FileCacheManager:
    """Triton's, as far as ours builds on it: Triton comes with torch for GPUs alone."""

    def __init__(self, key: str, override: bool = False, dump: bool = False) -> None:  # noqa: ARG002
        self.cache_dir = os.path.join(os.environ["TRITON_CACHE_DIR"], key)
        os.makedirs(self.cache_dir, exist_ok=True)

    def _make_path(self, filename: str) -> str:
        return os.path.join(self.cache_dir, filename)

    def has_file(self, filename: str) -> bool:
        return os.path.exists(self._make_path(filename))

    def get_file(self, filename: str) -> str | None:
        return self._make_path(filename) if self.has_file(filename) else None


@pytest.fixture
def kernel_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    for name in ("TRITON_CACHE_DIR", "TRITON_OVERRIDE_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    try:
        importlib.import_module("triton.runtime.cache")
    except ImportError:
        for name in ("triton", "triton.runtime", "triton.runtime.cache"):
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
        sys.modules["triton.runtime.cache"].FileCacheManager = FileCacheManager  # type: ignore[attr-defined]
    yield importlib.import_module("worker.executor.kernel_files").KernelFiles
    del sys.modules["worker.executor.kernel_files"]


@pytest.fixture
def kept(kernel_files: Any) -> Any:
    """A kernel, kept as Triton does it."""
    files = kernel_files("key")
    files.put_group("add.json", {name: files.put(content, name) for name, content in FILES.items()})
    return kernel_files("key")


def test_a_kernel_is_found_again(kept: Any, tmp_path: Path) -> None:
    group = kept.get_group("add.json")
    assert {name: Path(path).read_bytes() for name, path in group.items()} == {
        name: content if isinstance(content, bytes) else content.encode() for name, content in FILES.items()
    }
    assert kept.get_file("add.cubin") == str(tmp_path / "key/add.cubin")
    assert kept.get_group("other.json") is kept.get_file("other.so") is None
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("name", [*FILES, "add.json.group", "add.cubin.sha256"])
@pytest.mark.parametrize("damage", ["empty", "cut", "changed", "not there", "a folder"])
def test_a_broken_one_is_made_anew(kept: Any, tmp_path: Path, name: str, damage: str) -> None:
    file = tmp_path / "key" / name
    content = file.read_bytes()
    match damage:
        case "empty":
            file.write_bytes(b"")
        case "cut":
            file.write_bytes(content[:-1])
        case "changed":
            file.write_bytes(bytes(len(content)))
        case _:
            file.unlink()
    if damage == "a folder":
        file.mkdir()
    assert kept.get_group("add.json") is None
    if damage != "a folder":
        kept.put_group("add.json", {name: kept.put(content, name) for name, content in FILES.items()})
        assert kept.get_group("add.json") is not None


def test_a_cache_that_has_moved_is_read(kept: Any, kernel_files: Any, tmp_path: Path) -> None:
    (tmp_path / "key").rename(tmp_path / "moved")
    assert kernel_files("moved").get_group("add.json")["add.cubin"] == str(tmp_path / "moved/add.cubin")


def test_what_a_developer_put_there_is_taken_as_it_is(kernel_files: Any, tmp_path: Path) -> None:
    """`TRITON_KERNEL_OVERRIDE`: files without digests."""
    (tmp_path / "key").mkdir()
    (tmp_path / "key/add.ptx").write_text("// by hand")
    assert kernel_files("key", override=True).get_file("add.ptx") is not None
