"""How much memory a GPU has, how much of it is free, and what Z-Image-Turbo takes."""

import torch

from pipeline.formats.registry import find
from pipeline.memory_plan import least_budget, plan
from pipeline.memory_sizes import Picture, Sizes

GIB = 1024**3


def free_and_total(device: torch.device) -> tuple[int, int]:
    """Return a GPU's free and whole memory in bytes. The driver is asked: CUDA would take some itself."""
    import pynvml

    try:
        pynvml.nvmlInit()
        uuid = torch.cuda.get_device_properties(device).uuid
        memory = pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}"))
        return int(memory.free), int(memory.total)
    except pynvml.NVMLError:  # a slice of a GPU, or one of another make
        return torch.cuda.mem_get_info(device)


def turbo(quantization: str) -> Sizes:
    """Return the sizes of Z-Image-Turbo's weights in a number format; `none`: in bfloat16."""
    number_format = find(quantization)
    each = number_format.rows.dtype.itemsize if number_format else None
    return Sizes.of(quantized_bytes=each, text_quantized_bytes=each)


def taken(sizes: Sizes) -> int:
    """Return how many bytes a picture of 1024×1024 takes with all weights on the GPU."""
    return plan(sizes, None).peak_bytes(Picture())


def told_needs(quantization: str) -> str:
    """Say how much memory Z-Image-Turbo takes in a number format, and how much less in fp8."""

    def both(name: str) -> tuple[float, float]:
        return taken(turbo(name)) / GIB, least_budget(turbo(name)) / GIB

    told = "Z-Image-Turbo takes about {:.1f} GiB at 1024×1024, at least {:.1f} with weights in RAM".format(
        *both(quantization)
    )
    if quantization == "none":
        told += "; with ZIMAGE_QUANTIZATION=fp8 {:.1f} and {:.1f}".format(*both("fp8"))
    return told
