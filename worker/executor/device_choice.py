"""Which device a worker draws on, and whether it can do what the settings ask of it.

Where the pipeline tells its caller of arguments, operators are told of settings.
"""

import torch

from jobs.settings import Settings
from pipeline.device import find_device
from pipeline.formats.number_format import QuantizationError
from pipeline.formats.registry import find
from worker.executor.gpu_claim import claim_first


def choose_device(settings: Settings) -> torch.device:
    """Return the device that `ZIMAGE_DEVICE` names, if `ZIMAGE_QUANTIZATION` is for it.

    `auto` is a GPU that no other worker of this machine has taken so, the one with the most free memory first; where
    there is none, the CPU.

    Raises:
        ValueError: the setting names no device of this machine, it can't run the quantization, or the cache can't be
            written.
    """
    device = _named_device(settings)
    try:
        if number_format := find(settings.quantization):
            number_format.check(device, torch.bfloat16)
    except QuantizationError as error:
        raise ValueError(f"ZIMAGE_QUANTIZATION: {error}: set it to none there") from error
    return device


def _named_device(settings: Settings) -> torch.device:
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
        where = "name a directory that can be written, on a disk of this machine"
        raise ValueError(f"ZIMAGE_CACHE_DIR: {error}: {where}") from error
    return torch.device("cuda", gpus[first])


def _free_bytes(index: int, uuid: str) -> int:
    """Return a GPU's free memory. The driver is asked: CUDA would take some itself, on every GPU asked about."""
    import pynvml

    try:
        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")).free)
    except pynvml.NVMLError:  # a slice of a GPU, or one of another make
        return torch.cuda.mem_get_info(index)[0]
