"""Checkpoints in a number format, made from others: smaller, and quick to load, since nothing is left to quantise.

The matrices that the format takes are stored in it with their scales beside them; everything else stays as it is.
"""

import shutil
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pipeline.checkpoint.components import Checkpoint
from pipeline.checkpoint.config import CheckpointError, Config
from pipeline.checkpoint.files import INDICES
from pipeline.checkpoint.weights import Weights
from pipeline.checkpoint.writer import new_directory, write_json, write_weights
from pipeline.formats.fp8 import FP8
from pipeline.formats.number_format import NumberFormat
from pipeline.formats.registry import find_stored

SHARD_BYTES = 3_000_000_000
STEMS = {"transformer": "diffusion_pytorch_model", "text_encoder": "model"}


def write_quantized_checkpoint(source: Path, target: Path, number_format: NumberFormat = FP8) -> None:
    """Write the checkpoint `source` to the directory `target` with the matrices that a format takes in it.

    It appears whole or not at all. RAM holds one shard of 3 GB at a time.

    Raises:
        CheckpointError: `source` can't be loaded or is quantised already, or `target` is within it.
        FileExistsError: `target` exists and is not empty.
        OSError: a file can't be read or written.
    """
    checkpoint = Checkpoint(source)
    components: dict[str, Weights[Any]] = {
        "transformer": checkpoint.transformer,
        "text_encoder": checkpoint.text_encoder,
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
            others = shutil.ignore_patterns("*.safetensors", INDICES)
            shutil.copytree(source / name, draft / name, ignore=others)
            names = _write_quantized(weights, draft / name / STEMS[name], number_format)
            config = draft / name / "config.json"
            if config.exists():
                write_json(config, {**Config(config).values, "quantization_config": number_format.file_config(names)})


def _write_quantized(weights: Weights[nn.Module], stem: Path, number_format: NumberFormat) -> list[str]:
    """Write a component's weights; return the names of those that are quantised now."""
    for stored in weights.files.tensors.values():
        if before := find_stored(stored.dtype):
            told = f"in {before.name} already, as {stored.name!r} is, expected another checkpoint"
            raise CheckpointError(f"{stored.file}: {told}")
    shapes = {key: tensor.shape for key, tensor in weights.module.state_dict().items()}
    bytes_each = number_format.rows.dtype.itemsize
    chosen = {
        name for name, keys in weights.holds.items() if all(number_format.takes(key, shapes[key]) for key in keys)
    }
    with weights.files.open() as read:

        def size(name: str) -> int:
            tensor = read(name)
            return tensor.numel() * bytes_each + 4 * len(tensor) if name in chosen else tensor.nbytes

        def make(name: str) -> dict[str, Tensor]:
            if name not in chosen:
                return {name: read(name)}
            values, scales = number_format.rows.quantize(read(name))
            return {name: values, number_format.scale_name(name): scales}

        write_weights(stem, {name: size(name) for name in weights.files.tensors}, make, SHARD_BYTES)
    return sorted(chosen)
