"""Which model on which device: from the settings to a loaded pipeline."""

import os
from pathlib import Path

import torch

from jobs.model_card import TINY, TINY_SIZES
from jobs.objects.s3_client import connect
from jobs.settings import Settings
from pipeline import TINY_CHECKPOINT, ZImagePipeline
from pipeline.checkpoint.sources import S3_SCHEME, locate
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
        if not torch.cuda.is_available():
            return torch.device("cpu")
        names = [str(torch.cuda.get_device_properties(index).uuid) for index in range(torch.cuda.device_count())]
        gpus = sorted(range(len(names)), key=lambda index: -_free_bytes(index, names[index]))
        # Free memory alone would send workers that start together to the same GPU.
        try:
            first = claim_first([names[index] for index in gpus], settings.cache_dir / "gpus")
            return torch.device("cuda", gpus[first])
        except OSError as error:
            raise ValueError(f"ZIMAGE_CACHE_DIR: {error}: name a directory that can be written") from error
    try:
        return find_device(settings.device)
    except ValueError as error:
        raise ValueError(f"ZIMAGE_DEVICE: {error}, and auto takes what there is") from error


def _free_bytes(index: int, uuid: str) -> int:
    """Return a GPU's free memory. The driver is asked: CUDA would take some itself, on every GPU asked about."""
    import pynvml

    try:
        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")).free)
    except pynvml.NVMLError:  # a slice of a GPU, or one of another make
        return torch.cuda.mem_get_info(index)[0]


def size_warnings(model: str, width: int, height: int) -> list[str]:
    """Return what to tell of a picture's size, by the model's name."""
    if model == TINY and (width, height) not in TINY_SIZES:
        return ["the bundled model draws well at 128x128, 96x128 and 128x96 only: other sizes look worse or wrong"]
    return []


def find_checkpoint(settings: Settings, name: str) -> Path:
    """Return the directory of the checkpoint that `ZIMAGE_MODEL` may name so; what is remote is downloaded first.

    Raises:
        pipeline.CheckpointError: it is not there, or can't be reached.
    """
    if name == TINY:
        return TINY_CHECKPOINT
    return locate(name, cache_dir=settings.cache_dir, connect_s3=lambda: connect(settings, settings.s3_endpoint))


def load_pipeline(settings: Settings) -> tuple[ZImagePipeline, str]:
    """Load the model that the settings name; return it and its name.

    Raises:
        pipeline.CheckpointError: the checkpoint is missing something or is broken.
        ValueError: the device is not there, or cannot run the quantization.
    """
    device = choose_device(settings)
    root = find_checkpoint(settings, settings.model)
    vae = None if settings.vae is None else find_checkpoint(settings, settings.vae)
    # CPUs are quicker in float32 than in emulated bfloat16.
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    loaded = ZImagePipeline.from_pretrained(root, device, dtype, vae, settings.quantization)
    return loaded, served_name(settings.model)


def served_name(model: str) -> str:
    """The name under which `ZIMAGE_MODEL` is served: a path's last part, a hub id as it is."""
    remote = model.startswith(S3_SCHEME)
    if model == TINY or not (remote or Path(model).is_dir()):
        return model
    path = Path(model.removeprefix(S3_SCHEME)) if remote else Path(os.path.abspath(model))
    # The bundled model's name alone would tell clients that model's sizes.
    return path.name if path.name != TINY else f"{path.parent.name}/{TINY}"
