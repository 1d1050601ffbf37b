"""The small model: its shape, its tokenizer, its files, and the forward pass that training needs."""

import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen3Config, Qwen3Model

from pipeline.checkpoint.config import Config
from pipeline.checkpoint.params import autoencoder_params, transformer_params
from pipeline.checkpoint.random import Size, write_configs
from pipeline.model.autoencoder import Autoencoder
from pipeline.model.layers import FinalLayer, ModulatedBlock
from pipeline.model.transformer import TOKEN_MULTIPLE, Prepared, Transformer
from training.scenes import caption, sample_scene

VOCABULARY = 1024
LONGEST_CAPTION = TOKEN_MULTIPLE  # tokens, chat template included; those of `training.scenes` have 30 at most
SMALL = Size(
    dtype=torch.bfloat16,
    shard_bytes=5_000_000_000,
    transformer={
        "dim": 224,
        "n_layers": 7,
        "n_refiner_layers": 1,
        "n_heads": 7,
        "n_kv_heads": 7,
        "cap_feat_dim": 192,
        "axes_dims": [8, 12, 12],
    },
    vae={"block_out_channels": [32, 64, 96, 96], "layers_per_block": 1, "norm_num_groups": 16},
    text_encoder={
        "hidden_size": 192,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "head_dim": 32,
        "vocab_size": VOCABULARY,
    },
)


def write_checkpoint_files(root: Path) -> None:
    """Write configs and tokenizer, everything but the weights, into the empty directory `root`."""
    write_configs(root, SMALL)
    tokenizer = AutoTokenizer.from_pretrained(root / "tokenizer")
    trained = tokenizer.train_new_from_iterator(_corpus(tokenizer), VOCABULARY)
    for file in (root / "tokenizer").iterdir():
        file.unlink()
    trained.save_pretrained(root / "tokenizer")


def _corpus(tokenizer: PreTrainedTokenizerBase, count: int = 20_000) -> Iterable[str]:
    """Captions in their chat template, without written words: letters must stay tokens of their own to be spelled."""
    rng = random.Random(1)  # noqa: S311 - captions, not secrets
    for number in range(count):
        scene = sample_scene(rng)
        text = caption(scene, "en" if number % 2 else "zh", rng)
        if scene.word:
            text = text.replace(scene.word, "7")
        yield str(
            tokenizer.apply_chat_template(
                [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
            )
        )


def tokenize(tokenizer: PreTrainedTokenizerBase, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Return ids `[N, LONGEST_CAPTION]`, filled up with zeros, and lengths `[N]`.

    Raises:
        ValueError: a caption has more tokens; cut, it would lack its end, which the pipeline gives the model.
    """
    chat = str(
        tokenizer.apply_chat_template([{"role": "user", "content": "@"}], tokenize=False, add_generation_prompt=True)
    )
    rows = tokenizer([chat.replace("@", text) for text in captions])["input_ids"]
    ids = torch.zeros(len(rows), LONGEST_CAPTION, dtype=torch.long)
    for index, row in enumerate(rows):
        if len(row) > LONGEST_CAPTION:
            raise ValueError(f"{captions[index]!r} has {len(row)} tokens, expected at most {LONGEST_CAPTION}")
        ids[index, : len(row)] = torch.tensor(row)
    return ids, torch.tensor([len(row) for row in rows])


def build_autoencoder(root: Path) -> Autoencoder:
    """Return the autoencoder of `root`'s config, with PyTorch's random weights."""
    return Autoencoder(autoencoder_params(Config(root / "vae/config.json")))


class TextToLatents(nn.Module):
    """Text encoder and transformer, trained together."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        # All layers are made, so that transformers and diffusers find them; what the last one says is never used.
        self.text_encoder = Qwen3Model(Qwen3Config.from_dict(Config(root / "text_encoder/config.json").values))
        self.transformer = Transformer(transformer_params(Config(root / "transformer/config.json")))
        for unused in (self.text_encoder.layers[-1], self.text_encoder.norm):
            unused.requires_grad_(False)
        self._tables: dict[tuple[int, int], Prepared] = {}
        for module in self.transformer.modules():
            if isinstance(module, ModulatedBlock):
                weight, bias = module.adaLN_modulation.parameters()
                nn.init.zeros_(weight)  # gates almost closed: each layer starts near the identity
                nn.init.zeros_(bias)
                bias.data.view(4, -1)[1::2] = 0.3
            elif isinstance(module, FinalLayer):
                nn.init.zeros_(module.linear.weight)
                nn.init.zeros_(module.linear.bias)
        # At zero, the norms behind them would make their gradients outweigh all others.
        nn.init.normal_(self.transformer.x_pad_token, std=0.02)
        nn.init.normal_(self.transformer.cap_pad_token, std=0.02)

    def forward(self, latents: Tensor, timestep: Tensor, ids: Tensor, lengths: Tensor) -> Tensor:
        """Predict the negated velocity.

        Args:
            latents: `[B, 16, H, W]`.
            timestep: `[B]`, 0 for noise to 1 for an image.
            ids: `[B, tokens]`, a multiple of 32 of them, filled up behind each caption.
            lengths: `[B]`, tokens of each caption.
        """
        transformer, (height, width) = self.transformer, latents.shape[2:]
        # Attention is causal, so what fills the rows up changes nothing before it.
        features = self._features(ids)
        order = torch.arange(ids.shape[1], device=ids.device)
        x = transformer.cap_embedder(features)
        x = torch.where((order < lengths[:, None])[..., None], x, transformer.cap_pad_token.to(x.dtype))
        conditioning = self._conditioning(ids.shape[1], height, width)
        for block in transformer.context_refiner:
            x = block(x, conditioning.rope[:, -ids.shape[1] :], None)
        time = transformer.embed_time(timestep)
        image = transformer.refine(transformer.embed_image(latents), time, conditioning.image_rope)
        stream = torch.cat([image, x], dim=1)
        stream = transformer.stack.run(stream, time, conditioning, 0, transformer.params.num_layers)
        return transformer.unpatchify(stream, time, height, width)

    def _features(self, ids: Tensor) -> Tensor:
        """The input of the text encoder's last layer."""
        hidden: tuple[Tensor, ...] = self.text_encoder(
            input_ids=ids,
            attention_mask={"full_attention": None},  # causal, and not asked of the device whether anything is masked
            output_hidden_states=True,
            use_cache=False,
        ).hidden_states
        return hidden[-2]

    def _conditioning(self, tokens: int, height: int, width: int) -> Prepared:
        """The rotary tables of a size; every caption is padded to the same length, so one row's serve all."""
        if (height, width) not in self._tables:
            blank = self.transformer.cap_pad_token.new_zeros(tokens, self.transformer.params.caption_dim)
            # Without autocast: it would keep the weights that it casts here, and those have no gradient.
            with torch.no_grad(), torch.autocast(blank.device.type, enabled=False):
                self._tables[height, width] = self.transformer.prepare([blank], height, width)
        return self._tables[height, width]


def save_weights(root: Path, model: TextToLatents, autoencoder: Autoencoder) -> None:
    """Write the weights beside the configs in `root`, in bfloat16; the latents' scale goes into the VAE's config."""
    vae = Config(root / "vae/config.json").values
    vae |= {
        "scaling_factor": autoencoder.params.scaling_factor,
        "shift_factor": autoencoder.params.shift_factor,
    }
    (root / "vae/config.json").write_text(json.dumps(vae, indent=2) + "\n")
    for name, module, prefix in (
        ("vae/diffusion_pytorch_model.safetensors", autoencoder, ""),
        ("transformer/diffusion_pytorch_model.safetensors", model.transformer, ""),
        ("text_encoder/model.safetensors", model.text_encoder, "model."),
    ):
        tensors = {
            f"{prefix}{key}": value.detach().to("cpu", torch.bfloat16).contiguous()
            for key, value in module.state_dict().items()
        }
        save_file(tensors, root / name, metadata={"format": "pt"})
