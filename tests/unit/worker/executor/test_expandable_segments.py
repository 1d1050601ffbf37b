"""Expandable segments are used where a trial in another process says so; a driver that refuses them is stood in for."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from worker.executor import expandable_segments as tried
from worker.executor.expandable_segments import expandable_segments

GPU = torch.device("cuda", 1)
FIXED = "expandable_segments:False"
# In place of torch in the trial's process.
TORCH = """
import os, time
class device: pass
class OutOfMemoryError(RuntimeError): pass
class cuda:
    def synchronize(device): {synchronize}
class Tensor:
    def cpu(self): pass
uint8 = None
def empty(size, dtype, device):
    assert device == "cuda:1"
    assert os.environ["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
    {allocate}
    return Tensor()
"""


@pytest.fixture(autouse=True)
def nothing_chosen(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in tried.CHOICES:
        monkeypatch.delenv(name, raising=False)
    torch._C._accelerator_setAllocatorSettings(FIXED)
    yield
    torch._C._accelerator_setAllocatorSettings(FIXED)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder for the trial's torch."""
    path = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{path}")
    return tmp_path / "torch.py"


def chosen() -> str:
    return torch._C._accelerator_getAllocatorSettings()


@pytest.mark.parametrize(
    ("synchronize", "allocate"),
    [
        ("pass", "pass"),
        ("pass", "raise OutOfMemoryError('CUDA out of memory. Tried to allocate 64.00 MiB')"),
        ("raise RuntimeError('CUDA error: all CUDA-capable devices are busy or unavailable')", "pass"),
    ],
    ids=["they work", "a full GPU", "a taken GPU"],
)
def test_they_are_used_unless_the_driver_refuses_them(
    driver: Path, caplog: pytest.LogCaptureFixture, synchronize: str, allocate: str
) -> None:
    driver.write_text(TORCH.format(synchronize=synchronize, allocate=allocate))
    with expandable_segments(GPU):
        assert chosen() == FIXED
    assert (chosen(), caplog.text) == (tried.EXPANDABLE, "")


@pytest.mark.parametrize(
    ("allocate", "told"),
    [
        ("raise RuntimeError('CUDA driver error: unknown error\\n(of WSL2)')", "(CUDA driver error: unknown error)"),
        ("raise RuntimeError('CUDA driver error: operation not supported')", "operation not supported"),
        ("if size > 1 << 20: raise RuntimeError('CUDA driver error: out of memory')", "driver error: out of memory"),
        ("os.abort()", "the trial ended with -6"),
        ("raise ImportError('libcuda.so.1')", "the trial ended with 1: ImportError: libcuda.so.1"),
        ("time.sleep(60)", "no answer within 1 s"),
    ],
    ids=["WSL2", "a virtual GPU", "Jetson", "it crashes", "another error", "it hangs"],
)
def test_they_are_not_where_the_trial_fails(
    driver: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, allocate: str, told: str
) -> None:
    if "sleep" in allocate:
        monkeypatch.setattr(tried, "TRIAL_SECONDS", 1.0)
    driver.write_text(TORCH.format(synchronize="pass", allocate=allocate))
    with expandable_segments(GPU):
        pass
    assert chosen() == FIXED
    (record,) = caplog.records
    assert told in record.message
    assert "\n" not in record.message


def test_wsl2_is_known_for_it(driver: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.release", lambda: "6.6.87.2-microsoft-standard-WSL2")
    with expandable_segments(GPU):
        pass
    assert chosen() == FIXED
    assert "WSL2" in caplog.text


@pytest.mark.parametrize("name", tried.CHOICES)
def test_nothing_is_tried_where_the_environment_chooses(
    driver: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    driver.write_text("raise SystemExit(3)")
    monkeypatch.setenv(name, "max_split_size_mb:512")
    with expandable_segments(GPU):
        pass
    monkeypatch.delenv(name)
    with expandable_segments(torch.device("cpu")):
        pass
    assert (chosen(), caplog.text) == (FIXED, "")
