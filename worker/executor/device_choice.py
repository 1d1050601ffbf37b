"""Which device a worker draws on."""

import torch

from jobs.settings import Settings
from pipeline.device import find_device
from worker.executor.gpu_claim import claim_first


def choose_device(settings: Settings) -> torch.device:
    """Return the device that `ZIMAGE_DEVICE` names.

    `auto` is a GPU that no other worker of this machine has taken so, the one with the most free memory first; where
    there is none, the CPU.

    Raises:
        ValueError: the setting names no device of this machine, or the cache can't be written.
    """
    if settings.device == "auto":
        return _claim_gpu(settings) if torch.cuda.is_available() else torch.device("cpu")
    try:
        return find_device(settings.device)
    except ValueError as error:
        raise ValueError(f"ZIMAGE_DEVICE: {error}, and auto takes what there is") from error


def _claim_gpu(settings: Settings) -> torch.device:
    names = [str(torch.cuda.get_device_properties(index).uuid) for index in range(torch.cuda.device_count())]
    gpus = sorted(range(len(names)), key=lambda index: -_free_bytes(index, names[index]))
    # Free memory alone would send workers that start together to the same GPU.
    try:
        first = claim_first([names[index] for index in gpus], settings.cache_dir / "gpus")
    except OSError as error:
        raise ValueError(f"ZIMAGE_CACHE_DIR: {error}: name a directory that can be written") from error
    return torch.device("cuda", gpus[first])


def _free_bytes(index: int, uuid: str) -> int:
    """Return a GPU's free memory. The driver is asked: CUDA would take some itself, on every GPU asked about."""
    import pynvml

    try:
        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")).free)
    except pynvml.NVMLError:  # a slice of a GPU, or one of another make
        return torch.cuda.mem_get_info(index)[0]
