"""What an operator reads of a worker that can't start: one line of each kind, and the exit code of that kind."""

import errno
import re
import subprocess
import sysconfig
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from jobs.settings import Settings
from jobs.startup import UnreachableError
from pipeline import CheckpointError
from pipeline.checkpoint.config import AwayError, NoRoomError
from pipeline.faults import BrokenDeviceError
from support.fake_gpus import GIB, gpus, no_gpu
from worker import process
from worker.obstacles import obstacle

L4 = ("NVIDIA L4", (8, 9))
CUDA0 = torch.device("cuda", 0)
GCC = ["/usr/bin/gcc", "main.c", "-O3", "-shared", "-fPIC", "-o", "cuda_utils.so", "-lcuda", "-I/usr/include"]
TURBO = "Tongyi-MAI/Z-Image-Turbo"
SEE_CACHES = "see ZIMAGE_CACHE_DIR, HF_HOME and TRITON_CACHE_DIR"


def caused(outer: Exception, cause: Exception) -> Exception:
    outer.__cause__ = cause
    return outer


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (UnreachableError("Redis could not be used within 60 s"), 1, "^Redis could"),
        (AwayError("ZIMAGE_MODEL: a/b: the hub does not give it"), 1, "^ZIMAGE_MODEL"),
        (NoRoomError("ZIMAGE_MODEL: a/b: can't be kept in /cache"), 69, "^ZIMAGE_MODEL"),
        (CheckpointError("ZIMAGE_MODEL: /m/config.json: missing file"), 2, "^ZIMAGE_MODEL"),
        (
            RuntimeError("CUDA error: no kernel image is available for execution on the device"),
            69,
            r"\(NVIDIA L4\) can't",
        ),
        (RuntimeError("Triton Error [CUDA]: device kernel image is invalid"), 69, "is torch .* made for it"),
        (
            torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
            70,
            r"\(NVIDIA L4\) is broken",
        ),
        (BrokenDeviceError("the device multiplies two small matrices wrongly"), 70, "is broken: see .*wrongly"),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), 70, "is broken"),
        (AssertionError("libcuda.so cannot found!\nPossible files are located at []."), 69, "finds no libcuda.so: let"),
        (RuntimeError("0 active drivers ([]). There should only be one."), 69, "finds no libcuda.so: let ldconfig"),
        (subprocess.CalledProcessError(1, ["/sbin/ldconfig", "-p"]), 69, "finds no libcuda.so: let ldconfig"),
        (ImportError("/c/triton/x.so: failed to map segment from shared object"), 69, "noexec.*TRITON_CACHE_DIR"),
        (ModuleNotFoundError("No module named 'triton'"), 69, "installation is not whole: pip install"),
        (ImportError("libcudnn.so.9: cannot open shared object file"), 69, "libcudnn.so.9: .* not whole"),
        (MemoryError(), 69, r"too little memory \(RAM\) for the model: none is left"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), 69, r"memory \(RAM\)"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), 69, r"memory \(RAM\)"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/c/triton/a.cubin"),
            69,
            f"^/c/triton/a.cubin: No .*{SEE_CACHES}",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "/c/triton"),
            2,
            f"^/c/triton: Permission denied: {SEE_CACHES}",
        ),
        (OSError(errno.EROFS, "Read-only file system", "/c"), 2, "Read-only"),
        (caused(RuntimeError("while\nloading"), CheckpointError("/m: missing file")), 2, "^/m: missing file$"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_each_kind_has_its_line_and_its_code(
    monkeypatch: pytest.MonkeyPatch, error: Exception, code: int, told: str
) -> None:
    gpus(monkeypatch, L4)
    found = obstacle(error, Settings(), CUDA0)
    assert found
    assert re.search(told, found.line)
    assert "\n" not in found.line
    assert found.code == code


@pytest.mark.parametrize(
    "error",
    [KeyError("layers"), RuntimeError("a bug"), ValueError("x"), OSError(errno.EIO, "I/O error"), SyntaxError()],
)
def test_what_nobody_foresaw_is_none(error: Exception) -> None:
    assert obstacle(error, Settings(), None) is None


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(
            "Failed to find C compiler. Please specify via CC environment variable or set triton.knobs.build.impl."
        ),
        subprocess.CalledProcessError(1, GCC),
    ],
)
@pytest.mark.parametrize("lacks", ["compiler", "headers", "CC"])
def test_without_a_compiler_or_headers_it_is_said_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception, lacks: str
) -> None:
    (tmp_path / "gcc").touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path if lacks != "compiler" else tmp_path / "nothing"))
    monkeypatch.setenv("CC", "my-cc") if lacks == "CC" else monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    found = obstacle(error, Settings(), CUDA0)
    told = {
        "compiler": "Triton finds no C compiler: install gcc (Debian: gcc libc6-dev), or name one in CC",
        "headers": f"Triton finds no {tmp_path}/Python.h: install Python's headers (Debian: python3-dev, Fedora: "
        "python3-devel)",
        "CC": "CC=my-cc is no program: name a C compiler, or unset it",
    }
    assert found
    assert (found.line, found.code) == (told[lacks], 69)


def test_a_compiler_that_is_not_there_is_told_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "my-cc")
    missing = obstacle(FileNotFoundError(errno.ENOENT, "No such file or directory", "my-cc"), Settings(), CUDA0)
    assert missing
    assert (missing.line, missing.code) == ("CC=my-cc is no program: name a C compiler, or unset it", 69)
    assert obstacle(FileNotFoundError(errno.ENOENT, "No such file or directory", "other"), Settings(), CUDA0) is None


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
    ],
)
@pytest.mark.parametrize(
    ("quantization", "free", "total", "code", "told"),
    [
        (
            "none",
            1.5,
            3,
            69,
            r"memory, 3\.0 GiB: .* takes about 20\.5 GiB at 1024×1024, at least \d\.\d with weights in RAM; "
            r"with .*=fp8 12\.0 and \d\.\d: take a larger card",
        ),
        (
            "fp8",
            1,
            2.5,
            69,
            r"memory, 2\.5 GiB: .* takes about 12\.0 GiB .* at least \d\.\d with .*: take a larger card",
        ),
        ("none", 22.5, 24, 69, r"memory, 24\.0 GiB: .*: set a smaller ZIMAGE_VRAM_BUDGET, and no ZIMAGE_RESIDENCY"),
        (
            "none",
            4,
            24,
            1,
            r"memory: other processes hold 19\.0 of its 24\.0 GiB \(nvidia-smi lists them\), and .*=fp8 12\.0",
        ),
    ],
)
def test_too_little_memory_tells_what_is_needed_and_who_holds_it(
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    quantization: str,
    free: float,
    total: float,
    code: int,
    told: str,
) -> None:
    gpus(monkeypatch, L4, free=int(free * GIB), total=int(total * GIB))
    found = obstacle(error, Settings(model=TURBO, quantization=quantization), CUDA0)
    assert found
    assert re.search(rf"^cuda:0 \(NVIDIA L4\) has too little {told}", found.line)
    assert found.code == code


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker's servers are there, and this process logs as before."""
    monkeypatch.setattr(process, "configure_logging", lambda _form: None)
    monkeypatch.setattr(process, "wait_for_redis", lambda *_: None)
    monkeypatch.setattr(process, "wait_for_s3", lambda *_: None)


def last_lines(capsys: pytest.CaptureFixture[str], count: int = 1) -> list[str]:
    return capsys.readouterr().err.splitlines()[-count:]


@pytest.mark.usefixtures("started")
def test_a_worker_whose_gpu_is_gone_ends_with_69_and_the_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    no_gpu(monkeypatch, "Found no NVIDIA driver on your system. Please check")
    assert process.run(Settings(device="gpu", metrics_port=0)) == 69
    told = capsys.readouterr().err
    start = "zimage worker: ZIMAGE_DEVICE: torch can use no GPU here: there is no NVIDIA driver, and torch "
    assert told.splitlines()[-1].startswith(start)
    assert "Traceback" not in told
    assert "Warning" not in told


@pytest.mark.usefixtures("started")
def test_a_card_that_is_too_old_is_refused_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    gpus(monkeypatch, ("Tesla T4", (7, 5)))
    monkeypatch.setattr(process, "load_pipeline", None)
    assert process.run(Settings(device="gpu", model=TURBO, metrics_port=0, cache_dir=tmp_path)) == 69
    [line] = last_lines(capsys)
    assert line.startswith("zimage worker: ZIMAGE_DEVICE: cuda:0 (Tesla T4) has compute capability 7.5, and 8.0 is the")


class Panic(BaseException):
    """As Rust's libraries raise it."""


@pytest.mark.usefixtures("started")
@pytest.mark.parametrize("error", [KeyError("layers"), Panic("index out of bounds\nin Rust")])
def test_what_nobody_foresaw_is_a_line_too_and_keeps_its_traceback(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    error: BaseException,
) -> None:
    def load(*_: Any) -> NoReturn:
        raise error

    monkeypatch.setattr(process, "load_pipeline", load)
    assert process.run(Settings(device="cpu", metrics_port=0)) == 1
    assert f", in {load.__name__}\n" in caplog.text
    told = " ".join(f"{type(error).__name__}: {error}".split())
    assert last_lines(capsys) == [f"zimage worker: can't start, for a reason that nobody foresaw: {told}"]


@pytest.mark.usefixtures("started")
def test_memory_that_is_full_at_warm_up_is_told_as_in_loading(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def warm_up(_self: Any) -> NoReturn:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("worker.executor.thread.DeviceThread._warm_up", warm_up)
    assert process.run(Settings(device="cpu", metrics_port=0)) == 69
    [line] = last_lines(capsys)
    assert line == "zimage worker: the device has too little memory: the model takes more"
