"""The components of a checkpoint, each in its folder, and whether they fit together.

A checkpoint is a directory in diffusers' layout: `model_index.json` and the folders `transformer`, `vae`,
`text_encoder`, `tokenizer` and `scheduler`.
"""

import re
from dataclasses import replace
from pathlib import Path

from transformers import Qwen2Tokenizer

from pipeline.checkpoint.config import CheckpointError, Config, one_line
from pipeline.checkpoint.files import weight_files
from pipeline.checkpoint.impostors import byte_order_mark, impostor
from pipeline.checkpoint.names import COMFYUI_UNUSED, comfyui_name, comfyui_prefix, is_comfyui
from pipeline.checkpoint.params import autoencoder_params, qwen3_params, schedule, transformer_params
from pipeline.checkpoint.template_trial import template_fault
from pipeline.checkpoint.weights import Weights, examine
from pipeline.model.autoencoder import Autoencoder
from pipeline.model.qwen3 import Qwen3
from pipeline.model.transformer import Transformer, TransformerParams

CLASSES = {
    "transformer": (["diffusers", "ZImageTransformer2DModel"],),
    "vae": (["diffusers", "AutoencoderKL"],),
    "text_encoder": (["transformers", "Qwen3Model"], ["transformers", "Qwen3ForCausalLM"]),
    "scheduler": (["diffusers", "FlowMatchEulerDiscreteScheduler"],),
}


class Checkpoint:
    """All of a checkpoint, examined: nothing is missing or misshapen, and no weight is read yet.

    Args:
        root: its directory.
        vae: a directory with another VAE, or with another checkpoint whose `vae/` to take.

    Raises:
        CheckpointError: something is missing, broken or not supported; one line names file, key and expectation.
    """

    def __init__(self, root: Path, vae: Path | None = None) -> None:
        _check_index(Config(root / "model_index.json"))
        self.schedule = schedule(Config(root / "scheduler" / "scheduler_config.json"))
        vae = root / "vae" if vae is None else vae / "vae" if (vae / "vae").is_dir() else vae
        self.autoencoder = autoencoder_weights(vae)
        self.transformer = transformer_weights(root / "transformer")
        self.tokenizer = load_tokenizer(root / "tokenizer")
        _check_vocabulary(Config(root / "text_encoder" / "config.json"), len(self.tokenizer))
        self.text_encoder = text_encoder_weights(root / "text_encoder")
        params = self.transformer.module.params
        _expect(vae, "latent_channels", self.autoencoder.module.params.latent_channels, params.in_channels)
        _expect(root / "text_encoder", "hidden_size", self.text_encoder.module.params.hidden_size, params.caption_dim)


def transformer_weights(folder: Path) -> Weights[Transformer]:
    """Examine the transformer's folder; without `config.json` a ComfyUI file has to be Turbo's.

    Raises:
        CheckpointError: as `weight_files` and `examine`; or the config is missing or not supported.
    """
    files = weight_files(folder)
    config = folder / "config.json"
    if not is_comfyui(files.tensors):
        return examine(files, lambda: Transformer(transformer_params(Config(config))))
    prefix = comfyui_prefix(files.tensors)
    try:
        return examine(
            files,
            lambda: Transformer(transformer_params(Config(config)) if config.exists() else TransformerParams()),
            stored_as=lambda key: prefix + comfyui_name(key),
            ignore=lambda name: name == prefix + COMFYUI_UNUSED,
        )
    except CheckpointError as error:
        if config.exists():
            raise
        raise CheckpointError(f"{error} (without {config.name} it has to be Z-Image-Turbo)") from None


def text_encoder_weights(folder: Path) -> Weights[Qwen3]:
    """Examine the text encoder's folder, but for the last layer and the norm behind it; raises CheckpointError."""
    params = qwen3_params(Config(folder / "config.json"))
    last = params.num_layers - 1
    files = weight_files(folder)
    prefix = "model." if any(name.startswith("model.") for name in files.tensors) else ""
    unused = re.compile(rf"(?:model\.)?(?:norm\.|layers\.{last}\.)|lm_head\.")
    return examine(
        files,
        lambda: Qwen3(replace(params, num_layers=last)),
        stored_as=lambda key: prefix + key,
        ignore=lambda name: unused.match(name) is not None,
    )


def autoencoder_weights(folder: Path) -> Weights[Autoencoder]:
    """Examine the autoencoder's folder; raises CheckpointError."""
    config = Config(folder / "config.json")
    return examine(weight_files(folder), lambda: Autoencoder(autoencoder_params(config)))


def load_tokenizer(folder: Path) -> Qwen2Tokenizer:
    """Load the tokenizer's folder; raises CheckpointError."""
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        file = folder / "tokenizer.json"
        raise CheckpointError(f"{file}: {impostor(file) or 'missing file'}")
    for pattern in ("*.json", "*.jinja", "merges.txt"):  # before they are read: any text may be a template
        for file in sorted(folder.glob(pattern)):
            if told := impostor(file) or byte_order_mark(file):
                raise CheckpointError(f"{file}: {told}")
    try:
        tokenizer: Qwen2Tokenizer = Qwen2Tokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{folder}: no tokenizer that transformers can load: {str(error).splitlines()[0]}"
        ) from error
    if not tokenizer.chat_template:
        raise CheckpointError(f"{folder / 'tokenizer_config.json'}: missing field 'chat_template'")
    try:
        fault = template_fault(tokenizer.get_chat_template(), tokenizer.special_tokens_map)
    except ValueError as error:  # several templates, none of them the default
        fault = one_line(error)
    if fault:
        raise CheckpointError(f"{folder}: its chat template can't be rendered: {fault}")
    return tokenizer


def _check_index(index: Config) -> None:
    index.expect("_class_name", "ZImagePipeline")
    for name, classes in CLASSES.items():
        index.expect(name, *classes)


def _check_vocabulary(config: Config, tokens: int) -> None:
    vocab_size = config.integer("vocab_size")
    if vocab_size < tokens:
        raise CheckpointError(f"{config.path}: vocab_size is {vocab_size}, expected {tokens} or more")


def _expect(folder: Path, field: str, found: int, expected: int) -> None:
    if found != expected:
        raise CheckpointError(f"{folder / 'config.json'}: {field} is {found}, expected {expected}")
