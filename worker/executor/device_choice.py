"""Which device a worker draws on, and whether it can do what the settings ask of it.

Where the pipeline tells its caller of arguments, operators are told of settings.
"""

import logging
import time

import torch

from jobs.addresses import SettingError
from jobs.model_card import TINY, served_name
from jobs.settings import Settings
from pipeline.device import find_device
from pipeline.driver import UnfitGpuError, check_capability, count_gpus, why_none
from pipeline.formats.number_format import QuantizationError
from pipeline.formats.registry import find
from worker.executor.gpu_claim import claim_free
from worker.executor.gpu_memory import free_and_total
from worker.executor.kernel_cache import keep_kernels

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5  # how often it is looked whether a GPU has become free


class AllTakenError(RuntimeError):
    """Other workers of this machine have taken all of its GPUs."""


def choose_device(settings: Settings, patience: float = 0.0) -> torch.device:
    """Return the device that `ZIMAGE_DEVICE` names, if it can do what the worker and `ZIMAGE_QUANTIZATION` ask of it.

    `auto` and `gpu` are a GPU that no other worker of this machine has taken so, the one with the most free memory
    first. Where all are taken, `auto` shares one, and `gpu` waits. Where there is none, `auto` is the CPU for the
    bundled model alone: any other draws so slowly there that its jobs would be lost.

    Args:
        settings: of the worker.
        patience: seconds that `gpu` waits.

    Raises:
        SettingError: the setting names no device of this machine, or the cache can't be written.
        UnfitGpuError: this machine has no GPU that can be used, or not the one that is named.
        QuantizationError: the device can't run the quantization.
        AllTakenError: none has become free.
    """
    device = _named_device(settings, patience)
    if device.type == "cuda":
        keep_kernels(settings.cache_dir)  # formats try theirs
    try:
        if number_format := find(settings.quantization):
            number_format.check(device, torch.bfloat16)
    except QuantizationError as error:
        raise QuantizationError(f"ZIMAGE_QUANTIZATION: {error}: set it to none there") from error
    return device


def _named_device(settings: Settings, patience: float) -> torch.device:
    if settings.device == "auto" and (why := why_none()):
        return _cpu_instead(settings, why)
    try:
        found = settings.device in ("auto", "gpu")
        device = _find_gpu(settings, patience) if found else _find(settings.device)
        if device.type == "cuda":
            check_capability(device)
    except UnfitGpuError as error:
        raise UnfitGpuError(f"ZIMAGE_DEVICE: {error}") from error
    return device


def _cpu_instead(settings: Settings, why: str) -> torch.device:
    name = served_name(settings.model)
    if name != TINY:
        raise UnfitGpuError(
            f"ZIMAGE_DEVICE: {why}; on a CPU {name} takes minutes for a picture: set ZIMAGE_DEVICE=cpu if that is meant"
        )
    log.info("%s: this worker draws on the CPU", why)
    return torch.device("cpu")


def _find(name: str) -> torch.device:
    try:
        return find_device(name)
    except UnfitGpuError:
        raise
    except ValueError as error:
        raise SettingError(f"ZIMAGE_DEVICE: {error}, and gpu and auto take what there is") from error


def _find_gpu(settings: Settings, patience: float) -> torch.device:
    every = [torch.device("cuda", index) for index in range(count_gpus())]
    gpus = sorted(filter(_is_capable, every) if any(map(_is_capable, every)) else every, key=_free_bytes, reverse=True)
    # Free memory alone would send workers that start together to the same GPU.
    names, folder = [str(torch.cuda.get_device_properties(gpu).uuid) for gpu in gpus], settings.cache_dir / "gpus"
    deadline, warned = time.monotonic() + patience, False
    while True:
        try:
            free = claim_free(names, folder)
        except OSError as error:
            where = "name a directory that can be written, on a disk of this machine"
            raise SettingError(f"ZIMAGE_CACHE_DIR: {error}: {where}") from error
        if free is not None or settings.device == "auto":
            return gpus[free or 0]
        if time.monotonic() >= deadline:
            raise AllTakenError(
                f"ZIMAGE_DEVICE: other workers have taken all GPUs of this machine ({len(gpus)}; their locks are in "
                f"{folder}), and none became free within {patience:.0f} s: run a worker a GPU, or name one to share it"
            )
        if not warned:
            log.warning("waiting up to %.0f s for a GPU: other workers have taken all %d", patience, len(gpus))
            warned = True
        time.sleep(LOOK_SECONDS)


def _is_capable(gpu: torch.device) -> bool:
    try:
        check_capability(gpu)
    except UnfitGpuError:
        return False
    return True


def _free_bytes(gpu: torch.device) -> int:
    try:
        return free_and_total(gpu)[0]
    except RuntimeError as error:  # the others may do
        log.warning("%s can't be looked at, and comes last: %s", gpu, error)
        return -1
