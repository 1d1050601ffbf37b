"""How much memory a GPU has, how much of it is free, and what Z-Image-Turbo takes."""

import torch

GIB = 1024**3
# Measured at 1024×1024 (docs/operations.md, Sizing), by `ZIMAGE_QUANTIZATION`; other formats are as large as fp8.
TAKEN = {"none": 20.5 * GIB, "fp8": 12.0 * GIB}


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


def taken(quantization: str) -> float:
    """Return how many bytes Z-Image-Turbo takes about, at 1024×1024."""
    return TAKEN.get(quantization, TAKEN["fp8"])
