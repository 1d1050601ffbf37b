"""Spellings of the transformer's tensors in files: as diffusers stores them, or in the single file that ComfyUI reads.

ComfyUI's file has queries, keys and values as one tensor, `attention.qkv`, other names for a few more, and often all
names behind `model.diffusion_model.`.
"""

import re
from collections.abc import Collection

COMFYUI_PREFIX = "model.diffusion_model."
COMFYUI_NAMES = (
    (re.compile(r"^all_(x_embedder|final_layer)\.2-1\."), r"\1."),
    (re.compile(r"\.attention\.to_[qkv]\."), ".attention.qkv."),
    (re.compile(r"\.attention\.to_out\.0\."), ".attention.out."),
    (re.compile(r"\.attention\.norm_([qk])\."), r".attention.\1_norm."),
)
COMFYUI_UNUSED = "norm_final.weight"


def is_comfyui(names: Collection[str]) -> bool:
    """Whether a file whose tensors have these names is spelled as ComfyUI does."""
    return any(name.endswith(".attention.qkv.weight") for name in names)


def comfyui_prefix(names: Collection[str]) -> str:
    """What stands before all names of such a file."""
    return COMFYUI_PREFIX if any(name.startswith(COMFYUI_PREFIX) for name in names) else ""


def comfyui_name(key: str) -> str:
    """ComfyUI's name of one of the transformer's tensors, without the prefix."""
    for pattern, replacement in COMFYUI_NAMES:
        key = pattern.sub(replacement, key)
    return key
