"""What keeps a worker from starting: each error before it is ready as one line, and the exit code of its kind."""

import errno
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from jobs.addresses import SettingError
from jobs.exit_codes import ProgramExit
from jobs.model_card import TINY, served_name
from jobs.settings import Settings
from jobs.startup import UnreachableError
from network.proxies import ProxyError
from pipeline import CheckpointError
from pipeline.checkpoint.config import AwayError, NoRoomError
from pipeline.driver import UnfitGpuError
from pipeline.faults import Fault, fault_of
from pipeline.formats.number_format import QuantizationError
from pipeline.memory_plan import least_budget
from worker.executor import compiler
from worker.executor.device_choice import AllTakenError
from worker.executor.gpu_memory import GIB, free_and_total, told_needs, turbo

_AGAIN_LATER = (UnreachableError, AllTakenError, AwayError)
_UNFIT = (UnfitGpuError, QuantizationError, NoRoomError)
_WRONG_SETTING = (CheckpointError, ProxyError, SettingError)

_NO_COMPILER = re.compile(r"Failed to find C compiler", re.IGNORECASE)
_NO_DRIVER = re.compile(r"libcuda\.so cannot found|\d active drivers|ldconfig", re.IGNORECASE)
_NO_RAM = re.compile(r"DefaultCPUAllocator|[Cc]annot allocate memory")
_BUSY = "busy or unavailable"
_NO_EXECUTION = "failed to map segment"
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_FULL = (errno.ENOSPC, errno.EDQUOT)
OTHERS_BYTES = GIB  # held by others; less may be what CUDA itself takes for this process


@dataclass(frozen=True)
class Obstacle:
    """What is wrong, the least that is needed and what to do, in one line; and how the process ends."""

    line: str
    code: ProgramExit


def obstacle(error: BaseException, settings: Settings, device: torch.device | None) -> Obstacle | None:
    """Return what an error means for a worker that starts; None: nobody foresaw it.

    Args:
        error: what was raised.
        settings: of the worker.
        device: that was chosen; None: none was yet.
    """
    for link in _chain(error):
        told = _told(link, settings, device)
        if told:
            return Obstacle(" ".join(told.line.split()), told.code)
    return None


def unforeseen(error: BaseException) -> Obstacle:
    """Return what is said of an error that nobody foresaw; the log has its traceback."""
    told = " ".join(f"{type(error).__name__}: {error}".split())
    return Obstacle(f"can't start, for a reason that nobody foresaw: {told}", ProgramExit.FAILED)


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    while link:
        yield link
        link = link.__cause__


def _told(error: BaseException, settings: Settings, device: torch.device | None) -> Obstacle | None:
    said = str(error)
    if isinstance(error, _AGAIN_LATER):
        return Obstacle(said, ProgramExit.FAILED)
    if isinstance(error, _UNFIT):
        return Obstacle(said, ProgramExit.UNFIT_MACHINE)
    if isinstance(error, _WRONG_SETTING):
        return Obstacle(said, ProgramExit.WRONG_SETTING)
    return _of_triton(error, said) or _of_memory(error, said) or _of_device(error, settings, device) or _of_files(error)


def _of_triton(error: BaseException, said: str) -> Obstacle | None:
    """What it needs to make its kernels: a compiler, headers, the driver's library, a folder to load programs from."""
    if isinstance(error, RuntimeError | AssertionError | subprocess.SubprocessError) and _NO_DRIVER.search(said):
        told = f"Triton finds no libcuda.so: let ldconfig, or LD_LIBRARY_PATH, name the driver's folder ({said})"
    elif isinstance(error, subprocess.CalledProcessError) or _NO_COMPILER.search(said):
        told = compiler.missing() or f"the C compiler fails at what Triton gives it, see above: {said}"
    elif isinstance(error, FileNotFoundError) and error.filename == os.environ.get("CC", ""):
        told = compiler.missing() or said
    elif isinstance(error, ImportError) and _NO_EXECUTION in said:
        told = f"{said}: no program may be loaded from there (noexec): name another folder in TRITON_CACHE_DIR"
    elif isinstance(error, ImportError):
        told = f"{said}: the installation is not whole: pip install 'zimage-service[worker]'"
    else:
        return None
    return Obstacle(told, ProgramExit.UNFIT_MACHINE)


def _of_memory(error: BaseException, said: str) -> Obstacle | None:
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError | OSError) and _NO_RAM.search(said)):
        told = f"this machine, or its container, has too little memory (RAM) for the model: {said or 'none is left'}"
        return Obstacle(told, ProgramExit.UNFIT_MACHINE)
    return None


def _of_device(error: BaseException, settings: Settings, device: torch.device | None) -> Obstacle | None:
    if isinstance(error, RuntimeError) and _BUSY in str(error):
        told = f"another process has {_name(device)} for itself (exclusive mode: nvidia-smi -c 0 ends it)"
        return Obstacle(told, ProgramExit.FAILED)
    match fault_of(error):
        case Fault.MEMORY:
            return _too_little(settings, device)
        case Fault.UNSUPPORTED:
            built = f"torch {torch.__version__} for CUDA {torch.version.cuda}"
            told = f"{_name(device)} can't run a kernel that it takes: is {built} made for it? ({error})"
            return Obstacle(told, ProgramExit.UNFIT_MACHINE)
        case Fault.BROKEN:
            told = f"{_name(device)} is broken: see what nvidia-smi and the kernel's log say, reset it ({error})"
            return Obstacle(told, ProgramExit.BROKEN_DEVICE)
    return None


def _too_little(settings: Settings, device: torch.device | None) -> Obstacle:
    """A GPU that is too small, for good; or one that others fill, who may leave."""
    needs, smallest = "the model takes more", 0
    if served_name(settings.model) != TINY:
        needs, smallest = told_needs(settings.quantization), least_budget(turbo(settings.quantization))
    start = f"{_name(device)} has too little memory"
    if device is None or device.type != "cuda":
        return Obstacle(f"{start}: {needs}", ProgramExit.UNFIT_MACHINE)
    try:
        free, total = free_and_total(device)
        others = total - free - torch.cuda.memory_reserved(device)
    except RuntimeError:  # CUDA itself found no room
        return Obstacle(f"{start}: {needs}", ProgramExit.FAILED)
    if others > OTHERS_BYTES:
        held = f"other processes hold {others / GIB:.1f} of its {total / GIB:.1f} GiB (nvidia-smi lists them)"
        return Obstacle(f"{start}: {held}, and {needs}: end them, or take another GPU", ProgramExit.FAILED)
    advice = "take a larger card" if total < smallest else "set a smaller ZIMAGE_VRAM_BUDGET, and no ZIMAGE_RESIDENCY"
    return Obstacle(f"{start}, {total / GIB:.1f} GiB: {needs}: {advice}", ProgramExit.UNFIT_MACHINE)


def _of_files(error: BaseException) -> Obstacle | None:
    """A cache, or what lies in it, that can't be used: of the hub, of Triton, of the GPUs' locks."""
    if not isinstance(error, OSError) or error.errno not in (*_FORBIDDEN, *_FULL):
        return None
    told = f"{error.filename or 'a cache'}: {error.strerror}: see ZIMAGE_CACHE_DIR, HF_HOME and TRITON_CACHE_DIR"
    return Obstacle(told, ProgramExit.UNFIT_MACHINE if error.errno in _FULL else ProgramExit.WRONG_SETTING)


def _name(device: torch.device | None) -> str:
    if device is None or device.type != "cuda":
        return "the device"
    try:
        return f"{device} ({torch.cuda.get_device_name(device)})"
    except RuntimeError:  # a broken one does not tell
        return str(device)
