"""From the settings to a loaded pipeline: which model it is, where its files are, and how it is loaded."""

import errno
import logging
import os
from pathlib import Path

import torch

from jobs.addresses import SettingError, authorities
from jobs.model_card import TINY, served_name
from jobs.objects.s3_client import connect
from jobs.settings import Settings
from pipeline import TINY_CHECKPOINT, CheckpointError, ZImagePipeline
from pipeline.checkpoint.config import NoRoomError
from pipeline.checkpoint.sources import commit_of, locate
from pipeline.faults import multiply
from pipeline.memory_plan import BudgetError, parse_budget, parse_residency
from worker.executor.device_choice import choose_device
from worker.executor.expandable_segments import expandable_segments

log = logging.getLogger(__name__)


def find_checkpoint(settings: Settings, name: str, revision: str | None = None) -> Path:
    """Return the directory of the checkpoint that `ZIMAGE_MODEL` may name so; what is remote is downloaded first.

    Args:
        settings: where S3 is, and what is kept of it.
        name: of the checkpoint.
        revision: the hub's commit, tag or branch, where the name is a hub id.

    Raises:
        pipeline.CheckpointError: it is not there, can't be reached (AwayError), or kept (NoRoomError: a full disk).
    """
    if name == TINY and not revision:
        return TINY_CHECKPOINT
    try:
        return locate(
            name,
            revision=revision,
            cache_dir=settings.cache_dir,
            connect_s3=lambda: connect(settings, settings.s3_endpoint),
        )
    except CheckpointError as error:
        if advice := authorities.advice(error):
            raise type(error)(f"{error}: {advice}") from error
        raise
    except OSError as error:
        kind = NoRoomError if error.errno in (errno.ENOSPC, errno.EDQUOT) else CheckpointError
        place = f"{settings.cache_dir} (ZIMAGE_CACHE_DIR)"
        raise kind(f"{name}: can't be kept in {place}: {error.strerror}") from error


def load_pipeline(settings: Settings, device: torch.device | None = None) -> tuple[ZImagePipeline, str, str | None]:
    """Load the model that the settings name; return it, its name, and its commit where it is the hub's.

    Args:
        settings: of the worker.
        device: to load it on; None: the one that they name.

    Raises:
        pipeline.CheckpointError: the checkpoint is missing something or is broken.
        ValueError: the device is not there, or cannot run the quantization, or the budget is too little; names the
            setting.
        RuntimeError: the device, its driver or Triton fails.
    """
    device = device or choose_device(settings)
    multiply(device)  # before gigabytes are fetched for one that can't
    with expandable_segments(device):
        root = _find_named(settings, "model", settings.model, settings.model_revision)
        vae = None
        if settings.vae is not None:
            vae = _find_named(settings, "vae", settings.vae, settings.vae_revision)
    # CPUs are quicker in float32 than in emulated bfloat16.
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    budget = parse_budget(settings.vram_budget) if settings.vram_budget else None
    residency = parse_residency(settings.residency) if settings.residency else None
    if budget and device.type == "cuda":
        _keep_within(budget, device)
    try:
        loaded = ZImagePipeline.from_pretrained(root, device, dtype, vae, settings.quantization, budget, residency)
    except BudgetError as error:
        raise SettingError(f"ZIMAGE_VRAM_BUDGET: {error}") from error
    return loaded, served_name(settings.model), commit_of(root)


def _keep_within(budget: int, gpu: torch.device) -> None:
    """Hold this process to its budget, so that others can have the rest of the GPU."""
    total = torch.cuda.get_device_properties(gpu).total_memory
    torch.cuda.set_per_process_memory_fraction(min(budget / total, 1.0), gpu.index)


def local_folder(settings: Settings) -> str | None:
    """The folder that `ZIMAGE_MODEL` names on this machine; None where it names a hub id or a bucket."""
    if settings.model == TINY:
        return str(TINY_CHECKPOINT)
    return os.path.abspath(settings.model) if Path(settings.model).is_dir() else None


def _find_named(settings: Settings, field: str, name: str, revision: str | None) -> Path:
    setting = f"ZIMAGE_{field.upper()}"
    try:
        root = find_checkpoint(settings, name, revision)
    except CheckpointError as error:
        told = f"{setting} and {setting}_REVISION" if revision else setting
        raise type(error)(f"{told}: {error}") from error
    if commit := commit_of(root):
        log.info("%s: %s at the hub's commit %s", setting, name, commit)
    return root
