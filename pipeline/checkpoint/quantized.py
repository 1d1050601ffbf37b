"""Checkpoints in fp8, made from others: half the size, and quick to load, since nothing is left to quantise.

The matrices that `takes_fp8` names are stored as e4m3 with their scales beside them; everything else stays as it is.
"""

import shutil
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pipeline.checkpoint.config import CheckpointError, Config
from pipeline.checkpoint.files import FP8_DTYPE, Weights
from pipeline.checkpoint.names import transformer_weights
from pipeline.checkpoint.writer import new_directory, write_json, write_weights
from pipeline.formats.fp8 import quantize_weight, takes_fp8
from pipeline.model.autoencoder import autoencoder_weights
from pipeline.model.scheduler import Schedule
from pipeline.model.text_encoder import load_tokenizer, text_encoder_weights

SHARD_BYTES = 3_000_000_000
STEMS = {"transformer": "diffusion_pytorch_model", "text_encoder": "model"}


def write_quantized_checkpoint(source: Path, target: Path) -> None:
    """Write the checkpoint `source` to the directory `target` with matrices of transformer and text encoder in fp8.

    It appears whole or not at all. RAM holds one shard of 3 GB at a time.

    Raises:
        CheckpointError: `source` is no checkpoint that can be loaded, or is in fp8 already; or `target` is within it.
        FileExistsError: `target` exists and is not empty.
        OSError: a file can't be read or written.
    """
    Config(source / "model_index.json")
    Schedule.from_config(Config(source / "scheduler" / "scheduler_config.json"))
    load_tokenizer(source / "tokenizer")
    autoencoder_weights(source / "vae")
    components: dict[str, Weights[Any]] = {
        "transformer": transformer_weights(source / "transformer"),
        "text_encoder": text_encoder_weights(source / "text_encoder"),
    }
    if target.resolve().is_relative_to(source.resolve()):
        raise CheckpointError(f"{target}: is within {source}, expected another place")
    with new_directory(target) as draft:
        for path in source.iterdir():
            if path.is_file():
                shutil.copyfile(path, draft / path.name)
        for name in ("vae", "scheduler", "tokenizer"):
            shutil.copytree(source / name, draft / name)
        for name, weights in components.items():
            others = shutil.ignore_patterns("*.safetensors", "*.safetensors.index.json")
            shutil.copytree(source / name, draft / name, ignore=others)
            names = _write_quantized(weights, draft / name / STEMS[name])
            config = draft / name / "config.json"
            if config.exists():
                write_json(config, {**Config(config).values, "quantization_config": _quantization_config(names)})


def _write_quantized(weights: Weights[nn.Module], stem: Path) -> list[str]:
    """Write a component's weights; return the names of those that are in fp8 now."""
    for stored in weights.files.tensors.values():
        if stored.dtype == FP8_DTYPE:
            raise CheckpointError(f"{stored.file}: in fp8 already, as {stored.name!r} is, expected another checkpoint")
    shapes = {key: tensor.shape for key, tensor in weights.module.state_dict().items()}
    chosen = {name for name, keys in weights.holds.items() if all(takes_fp8(key, shapes[key]) for key in keys)}
    with weights.files.open() as read:

        def size(name: str) -> int:
            tensor = read(name)
            return tensor.numel() + 4 * len(tensor) if name in chosen else tensor.nbytes

        def make(name: str) -> dict[str, Tensor]:
            if name not in chosen:
                return {name: read(name)}
            values, scales = quantize_weight(read(name))
            return {name: values, f"{name}_scale": scales}

        write_weights(stem, {name: size(name) for name in weights.files.tensors}, make, SHARD_BYTES)
    return sorted(chosen)


def _quantization_config(names: list[str]) -> dict[str, Any]:
    """What the library compressed-tensors, and with it transformers and vLLM, is told of the weights `names`."""
    eight_bits = {"num_bits": 8, "type": "float", "symmetric": True}
    return {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "quantization_status": "compressed",
        "config_groups": {
            "group_0": {
                "targets": [name.removesuffix(".weight") for name in names],
                "weights": {**eight_bits, "strategy": "channel", "dynamic": False},
                "input_activations": {**eight_bits, "strategy": "token", "dynamic": True},
            }
        },
    }
