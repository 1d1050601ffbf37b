"""The transformer's weights in files: as diffusers stores them, or in the single file that ComfyUI reads.

ComfyUI's file has queries, keys and values as one tensor, `attention.qkv`, other names for a few more, and often all
names behind `model.diffusion_model.`.
"""

import re
from collections.abc import Collection
from pathlib import Path

from pipeline.checkpoint.config import CheckpointError, Config
from pipeline.checkpoint.files import Weights, examine, weight_files
from pipeline.model.transformer import Transformer, TransformerParams

COMFYUI_PREFIX = "model.diffusion_model."
COMFYUI_NAMES = (
    (re.compile(r"^all_(x_embedder|final_layer)\.2-1\."), r"\1."),
    (re.compile(r"\.attention\.to_[qkv]\."), ".attention.qkv."),
    (re.compile(r"\.attention\.to_out\.0\."), ".attention.out."),
    (re.compile(r"\.attention\.norm_([qk])\."), r".attention.\1_norm."),
)
COMFYUI_UNUSED = "norm_final.weight"


def transformer_weights(folder: Path) -> Weights[Transformer]:
    """Examine the transformer's folder of a checkpoint; without `config.json` a ComfyUI file has to be Turbo's.

    Raises:
        CheckpointError: as `weight_files` and `examine`; or the config is missing or not supported.
    """
    files = weight_files(folder)
    config = folder / "config.json"
    if not _is_comfyui(files.tensors):
        return examine(files, lambda: _build(config))
    prefix = COMFYUI_PREFIX if any(name.startswith(COMFYUI_PREFIX) for name in files.tensors) else ""
    try:
        return examine(
            files,
            lambda: _build(config) if config.exists() else Transformer(TransformerParams()),
            stored_as=lambda key: prefix + comfyui_name(key),
            ignore=lambda name: name == prefix + COMFYUI_UNUSED,
        )
    except CheckpointError as error:
        if config.exists():
            raise
        raise CheckpointError(f"{error} (without {config.name} it has to be Z-Image-Turbo)") from None


def comfyui_name(key: str) -> str:
    """ComfyUI's name of a tensor."""
    for pattern, replacement in COMFYUI_NAMES:
        key = pattern.sub(replacement, key)
    return key


def _is_comfyui(names: Collection[str]) -> bool:
    return any(name.endswith(".attention.qkv.weight") for name in names)


def _build(config: Path) -> Transformer:
    return Transformer(TransformerParams.from_config(Config(config)))
