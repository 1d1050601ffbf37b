"""Whether torch can use a GPU of this machine: if not why, the least that is needed, and what to do.

The driver's errors are told by torch when it initialises CUDA (`c10/cuda/CUDAFunctions.cpp`), in many words.
"""

import os
import re
import warnings
from contextlib import suppress
from pathlib import Path

import torch

LEAST_CAPABILITY = (8, 0)  # Ampere: older tensor cores have no bfloat16, nor does Triton without them
# By the CUDA that torch is built for: what runs any 11.x, 12.x, 13.x (minor version compatibility).
LEAST_DRIVERS = {"11": "450.80", "12": "525.60", "13": "580.65"}

_KERNEL_MODULE = Path("/proc/driver/nvidia/version")
_WARNING = "CUDA initialization: "

_ADVICE = (
    (
        "unsupported display driver / cuda driver combination",
        "the driver's library and its kernel module are of two versions: restart the machine, or the container anew",
    ),
    ("system not yet initialized", "its GPUs are linked by NVSwitch, and nvidia-fabricmanager does not run: start it"),
    (
        "forward compatibility was attempted",
        "CUDA's compatibility library (cuda-compat) does not serve this card: take it out of LD_LIBRARY_PATH",
    ),
)
_SEE = "see what nvidia-smi says; a container that has lost its GPUs has to be made anew"


class UnfitGpuError(ValueError):
    """No GPU of this machine can be used, or not the one that was asked for: the message says why, and what to do."""


def count_gpus() -> int:
    """Return how many GPUs torch can use.

    Raises:
        UnfitGpuError: none.
    """
    if why := why_none():
        raise UnfitGpuError(why)
    return torch.cuda.device_count()


def why_none() -> str | None:
    """Return why torch can use no GPU of this machine; None: it can use one."""
    with warnings.catch_warnings(record=True) as told:  # what torch warns of is what is returned
        warnings.simplefilter("always")
        if torch.cuda.is_available():
            return None
        said = next((text.partition(_WARNING)[2] for text in map(_text, told) if _WARNING in text), "")
        try:
            torch.cuda.init()  # type: ignore[no-untyped-call]
        except (RuntimeError, AssertionError) as error:
            said = said or str(error)
    return f"torch can use no GPU here: {_reason(said)}"


def check_capability(device: torch.device) -> None:
    """Refuse a GPU that lacks what the fused parts of a pipeline take.

    Raises:
        UnfitGpuError: it does.
    """
    found = torch.cuda.get_device_capability(device)
    if found < LEAST_CAPABILITY:
        name, least = torch.cuda.get_device_name(device), _version(LEAST_CAPABILITY)
        raise UnfitGpuError(
            f"{device} ({name}) has compute capability {_version(found)}, and {least} is the least (A100, RTX 30 or "
            "newer): take a newer card, or cpu"
        )


def _text(warning: warnings.WarningMessage) -> str:
    return str(warning.message)


def _reason(said: str) -> str:
    """Say in one line what torch says in several."""
    built = f"torch {torch.__version__}"
    if "not compiled with CUDA" in said:
        return f"{built} is a build without CUDA: install PyPI's, or one of pytorch.org for your CUDA"
    if "Found no NVIDIA driver" in said:
        return (
            f"there is no NVIDIA driver, and {built} needs {_least_driver()}: install one; a container gets it by "
            "NVIDIA's container toolkit (docker run --gpus all)"
        )
    if old := re.search(r"too old \(found version (\d+)\)", said):
        knows = _version(divmod(int(old[1]) // 10, 100))
        return (
            f"the NVIDIA driver{_driver_version()} is too old, it knows CUDA {knows}, and {built} needs "
            f"{_least_driver()}: install a newer one, or a torch for CUDA {knows}"
        )
    for spelled, advice in _ADVICE:
        if spelled in said:
            return advice
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and ("No CUDA GPUs" in said or not said or "invalid device ordinal" in said):
        return f"CUDA_VISIBLE_DEVICES={visible!r} leaves none of its GPUs to this process: unset it, or name one"
    if "No CUDA GPUs" in said or not said:
        return f"the NVIDIA driver{_driver_version()} finds none: {_SEE}"
    words = re.sub(r"^Unexpected error .* (?=Error \d+:)|\(Triggered internally .*", "", " ".join(said.split()))
    return f"the NVIDIA driver{_driver_version()} fails ({words.strip(' .')}): {_SEE}"


def _least_driver() -> str:
    cuda = torch.version.cuda or ""
    least = LEAST_DRIVERS.get(cuda.partition(".")[0])
    return f"driver {least} or newer for its CUDA {cuda}" if least else f"one that knows CUDA {cuda}".rstrip()


def _driver_version() -> str:
    """Its version with a blank before it; "" where the machine does not tell."""
    with suppress(OSError):
        if found := re.search(r"Kernel Module\D*(\d+(?:\.\d+)+)", _KERNEL_MODULE.read_text()):
            return f" {found[1]}"
    return ""


def _version(parts: tuple[int, int]) -> str:
    return ".".join(map(str, parts))
