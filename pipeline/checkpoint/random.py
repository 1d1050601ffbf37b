"""Random checkpoints in the real layout: a tiny one to develop and test with, and one of Turbo's full size to measure.

They draw nothing worth looking at, but take the same code through the same files as the released weights.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from torch import Tensor
from transformers import Qwen3Config, Qwen3Model

from pipeline.checkpoint.config import Config
from pipeline.checkpoint.params import autoencoder_params, transformer_params
from pipeline.checkpoint.writer import new_directory, write_json, write_weights
from pipeline.model.autoencoder import Autoencoder
from pipeline.model.transformer import Transformer

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for turn in messages %}{{ '<|im_start|>' + turn.role + '\n' + turn.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Size:
    """What tells one checkpoint size from another."""

    dtype: torch.dtype
    shard_bytes: int
    transformer: dict[str, Any]
    vae: dict[str, Any]
    text_encoder: dict[str, Any]


SIZES = {
    "tiny": Size(
        dtype=torch.float32,
        shard_bytes=5_000_000_000,
        transformer={
            "dim": 96,
            "n_layers": 3,
            "n_refiner_layers": 1,
            "n_heads": 3,
            "n_kv_heads": 3,
            "cap_feat_dim": 64,
            "axes_dims": [8, 12, 12],
        },
        vae={"block_out_channels": [16, 16, 32, 32], "layers_per_block": 1, "norm_num_groups": 8},
        text_encoder={
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "vocab_size": 512,
        },
    ),
    "turbo": Size(
        dtype=torch.bfloat16,
        shard_bytes=5_000_000_000,
        transformer={
            "dim": 3840,
            "n_layers": 30,
            "n_refiner_layers": 2,
            "n_heads": 30,
            "n_kv_heads": 30,
            "cap_feat_dim": 2560,
            "axes_dims": [32, 48, 48],
        },
        vae={"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "norm_num_groups": 32},
        text_encoder={
            "hidden_size": 2560,
            "intermediate_size": 9728,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "vocab_size": 151936,
        },
    ),
}


def write_random_checkpoint(
    directory: Path, size: Literal["tiny", "turbo"] | Size = "tiny", seed: int = 0, device: str = "cpu"
) -> None:
    """Write a checkpoint of random weights that this package, diffusers and transformers can load.

    It appears at `directory` whole or not at all. "turbo" takes 21 GB of disk and about 10 GB of RAM. `device` draws
    the numbers: a GPU does it in seconds, and gives others for the same seed than a CPU.

    Raises:
        FileExistsError: `directory` exists and is not empty.
    """
    with new_directory(directory) as draft:
        generator = torch.Generator(device).manual_seed(seed)
        chosen = size if isinstance(size, Size) else SIZES[size]
        write_configs(draft, chosen)
        for stem, shapes in weight_shapes(draft).items():
            _write_weights(draft / stem, shapes, chosen, generator)


def write_configs(root: Path, size: Size) -> None:
    """Write every file of a checkpoint but its weights into the empty directory `root`."""
    components = {
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "Qwen3Model"],
        "tokenizer": ["transformers", "Qwen2Tokenizer"],
        "transformer": ["diffusers", "ZImageTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    for name in components:
        (root / name).mkdir()
    schedule = {"num_train_timesteps": 1000, "shift": 3.0, "use_dynamic_shifting": False}
    files: dict[str, dict[str, Any]] = {
        "model_index.json": {"_class_name": "ZImagePipeline", **components},
        "scheduler/scheduler_config.json": {"_class_name": "FlowMatchEulerDiscreteScheduler", **schedule},
        "transformer/config.json": _transformer_config(size),
        "vae/config.json": _vae_config(size),
        "text_encoder/config.json": _text_encoder_config(size),
    }
    for name, values in files.items():
        write_json(root / name, values)
    write_tokenizer(root / "tokenizer")


def weight_shapes(root: Path) -> dict[str, dict[str, torch.Size]]:
    """The name and shape of each tensor that the configs in `root` ask for, by the file name's beginning."""
    with torch.device("meta"):
        transformer = Transformer(transformer_params(Config(root / "transformer/config.json")))
        autoencoder = Autoencoder(autoencoder_params(Config(root / "vae/config.json")))
        text_encoder = Qwen3Model(Qwen3Config.from_dict(Config(root / "text_encoder/config.json").values))
    return {
        "transformer/diffusion_pytorch_model": {key: x.shape for key, x in transformer.state_dict().items()},
        "vae/diffusion_pytorch_model": {key: x.shape for key, x in autoencoder.state_dict().items()},
        "text_encoder/model": {f"model.{key}": x.shape for key, x in text_encoder.state_dict().items()},
    }


def _transformer_config(size: Size) -> dict[str, Any]:
    return {
        "_class_name": "ZImageTransformer2DModel",
        "all_f_patch_size": [1],
        "all_patch_size": [2],
        "axes_lens": [1536, 512, 512],
        "in_channels": 16,
        "norm_eps": 1e-5,
        "qk_norm": True,
        "rope_theta": 256.0,
        "t_scale": 1000.0,
        **size.transformer,
    }


def _vae_config(size: Size) -> dict[str, Any]:
    return {
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "in_channels": 3,
        "latent_channels": 16,
        "mid_block_add_attention": True,
        "out_channels": 3,
        "sample_size": 1024,
        "scaling_factor": 0.3611,
        "shift_factor": 0.1159,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "use_post_quant_conv": False,
        "use_quant_conv": False,
        **size.vae,
    }


def _text_encoder_config(size: Size) -> dict[str, Any]:
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "dtype": str(size.dtype).removeprefix("torch."),
        "hidden_act": "silu",
        "max_position_embeddings": 40960,
        "model_type": "qwen3",
        "rms_norm_eps": 1e-6,
        "rope_theta": 1_000_000,
        "tie_word_embeddings": True,
        **size.text_encoder,
    }


def write_tokenizer(folder: Path) -> None:
    """Write a tokenizer with a token for each byte, Qwen's three turn markers, and a chat template, into `folder`."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS])
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "vocab.json", vocab)
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    config = {
        "add_prefix_space": False,
        "chat_template": CHAT_TEMPLATE,
        "eos_token": "<|im_end|>",
        "model_max_length": 131072,
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    write_json(folder / "tokenizer_config.json", config)


def _write_weights(stem: Path, shapes: dict[str, torch.Size], size: Size, generator: torch.Generator) -> None:
    sizes = {key: shape.numel() * size.dtype.itemsize for key, shape in shapes.items()}
    write_weights(stem, sizes, lambda key: {key: _draw(key, shapes[key], size.dtype, generator)}, size.shard_bytes)


def _draw(key: str, shape: torch.Size, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Matrices and kernels that keep the variance of their input, norm weights around 1, biases around 0."""
    weight = torch.empty(shape, dtype=dtype, device=generator.device)
    if len(shape) == 1:
        return weight.normal_(float(key.endswith("weight")), 0.02, generator=generator).cpu()
    return weight.normal_(0, math.prod(shape[1:]) ** -0.5, generator=generator).cpu()
