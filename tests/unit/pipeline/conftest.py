"""Small float32 checkpoints that diffusers wrote, loaded by us and by diffusers."""

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers

from pipeline import ZImagePipeline
from pipeline.checkpoint.random import write_tokenizer
from support.parity import Pair, load_pair

diffusers.utils.logging.disable_progress_bar()
transformers.utils.logging.disable_progress_bar()

# "wide" has another head count, depth and number of refiners, and is stored in shards.
TRANSFORMERS: dict[str, dict[str, Any]] = {
    "small": {"dim": 64, "n_heads": 2, "n_kv_heads": 2, "n_layers": 2, "n_refiner_layers": 1, "axes_dims": [8, 12, 12]},
    "wide": {"dim": 96, "n_heads": 6, "n_kv_heads": 6, "n_layers": 4, "n_refiner_layers": 2, "axes_dims": [4, 6, 6]},
}
SHARD_SIZE = {"small": "10GB", "wide": "150KB"}


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("checkpoints")
    return {name: _write(root / name, name) for name in TRANSFORMERS}


@pytest.fixture(scope="session", params=list(TRANSFORMERS))
def pair(request: pytest.FixtureRequest, checkpoints: dict[str, Path]) -> Pair:
    return load_pair(checkpoints[request.param])


@pytest.fixture(scope="session")
def small(checkpoints: dict[str, Path]) -> ZImagePipeline:
    return ZImagePipeline.from_pretrained(checkpoints["small"], device="cpu", dtype=torch.float32)


def _write(path: Path, name: str) -> Path:
    generator = torch.Generator().manual_seed(len(name))
    (path / "tokenizer").mkdir(parents=True)
    write_tokenizer(path / "tokenizer")
    text_encoder = transformers.Qwen3ForCausalLM(
        transformers.Qwen3Config(
            hidden_size=48,
            intermediate_size=96,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            vocab_size=300,
            tie_word_embeddings=True,
        )
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 16, 16, 24),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=16,
        norm_num_groups=4,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    transformer = diffusers.ZImageTransformer2DModel(cap_feat_dim=48, axes_lens=[1536, 512, 512], **TRANSFORMERS[name])
    for module in (text_encoder, vae, transformer):
        _randomise(module, generator)
    diffusers.ZImagePipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae,
        text_encoder=text_encoder.model if name == "small" else text_encoder,
        tokenizer=transformers.AutoTokenizer.from_pretrained(path / "tokenizer"),
        transformer=transformer,
    ).save_pretrained(path, max_shard_size=SHARD_SIZE[name])
    return path


@torch.no_grad()
def _randomise(module: torch.nn.Module, generator: torch.Generator) -> None:
    """Give every parameter, pads, norms and biases included, a value that a mistake would show with."""
    for name, parameter in module.named_parameters():
        if name.endswith("pad_token"):
            parameter.normal_(0, 1, generator=generator)
        elif parameter.ndim == 1:
            parameter.normal_(float(name.endswith("weight")), 0.2, generator=generator)
        else:
            parameter.normal_(0, parameter[0].numel() ** -0.5, generator=generator)
