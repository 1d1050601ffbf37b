"""The transformer's weights in files: as diffusers stores them, or in the single file that ComfyUI reads.

ComfyUI's file has queries, keys and values as one tensor, `attention.qkv`, other names for a few more, and often all
names behind `model.diffusion_model.`.
"""

import re
from collections.abc import Collection
from pathlib import Path

from pipeline.checkpoint import Config, Weights, examine, weight_files
from pipeline.transformer import Transformer, TransformerParams

COMFYUI_PREFIX = "model.diffusion_model."
COMFYUI_NAMES = (
    (re.compile(r"^all_(x_embedder|final_layer)\.2-1\."), r"\1."),
    (re.compile(r"\.attention\.to_[qkv]\."), ".attention.qkv."),
    (re.compile(r"\.attention\.to_out\.0\."), ".attention.out."),
    (re.compile(r"\.attention\.norm_([qk])\."), r".attention.\1_norm."),
)
COMFYUI_UNUSED = "norm_final.weight"


def transformer_weights(folder: Path) -> Weights[Transformer]:
    """Examine the transformer's folder of a checkpoint; without `config.json` a ComfyUI file is taken for Turbo.

    Raises:
        CheckpointError: as `weight_files` and `examine`; or the config is missing or not supported.
    """
    files = weight_files(folder)
    config, comfyui = folder / "config.json", _is_comfyui(files.tensors)

    def build() -> Transformer:
        turbo = comfyui and not config.exists()
        return Transformer(TransformerParams() if turbo else TransformerParams.from_config(Config(config)))

    if not comfyui:
        return examine(files, build)
    prefix = COMFYUI_PREFIX if any(name.startswith(COMFYUI_PREFIX) for name in files.tensors) else ""
    return examine(
        files,
        build,
        stored_as=lambda key: prefix + comfyui_name(key),
        ignore=lambda name: name.removeprefix(prefix) == COMFYUI_UNUSED,
    )


def comfyui_name(key: str) -> str:
    """ComfyUI's name of a tensor."""
    for pattern, replacement in COMFYUI_NAMES:
        key = pattern.sub(replacement, key)
    return key


def _is_comfyui(names: Collection[str]) -> bool:
    return any(name.endswith(".attention.qkv.weight") for name in names)
