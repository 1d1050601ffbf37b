"""Qwen3 as text encoder: from a prompt to the features that Z-Image's transformer reads (arXiv 2511.22699).

The features are the input of Qwen3's last layer, so that layer and the final norm are neither loaded nor run.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import cast

import torch
from jinja2 import TemplateError
from torch import Tensor
from transformers import Qwen2Tokenizer

from pipeline.checkpoint.config import CheckpointError, Config, one_line
from pipeline.checkpoint.files import Weights, examine, weight_files
from pipeline.model.qwen3 import Qwen3, Qwen3Params

MAX_TOKENS = 512  # what the transformer was trained to read
KEPT_PROMPTS = 64  # at Turbo's width 5 KB a token: 20 MB for usual prompts, 168 MB at most


@dataclass(frozen=True)
class TextFeatures:
    """Features of one prompt, and how many tokens the prompt had before it was cut to the first 512."""

    features: Tensor  # [min(tokens, 512), hidden]
    tokens: int

    @property
    def warnings(self) -> list[str]:
        """What the person who wrote the prompt should know."""
        if self.tokens <= MAX_TOKENS:
            return []
        return [f"prompt has {self.tokens} tokens; the model reads the first {MAX_TOKENS}"]


class TextEncoder:
    """Tokenizer, chat template and Qwen3 without its last layer."""

    def __init__(self, model: Qwen3, tokenizer: Qwen2Tokenizer) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.run: Callable[[Tensor], Tensor] = model  # token ids [1, tokens] to features [1, tokens, hidden]
        self._kept = lru_cache(KEPT_PROMPTS)(self._encode)

    @classmethod
    def load(cls, root: Path, device: torch.device, dtype: torch.dtype | None) -> "TextEncoder":
        """Load `text_encoder/` and `tokenizer/` of the checkpoint `root`, as `Weights.load`; raises CheckpointError."""
        tokenizer = load_tokenizer(root / "tokenizer")
        folder = root / "text_encoder"
        config = Config(folder / "config.json")
        vocab_size = config.integer("vocab_size")
        if vocab_size < len(tokenizer):
            raise CheckpointError(f"{config.path}: vocab_size is {vocab_size}, expected {len(tokenizer)} or more")
        weights = text_encoder_weights(folder)
        return cls(weights.load(device, dtype), tokenizer)

    @property
    def reused(self) -> int:
        """How many prompts so far were among the last 64."""
        return self._kept.cache_info().hits

    def encode(self, prompt: str) -> TextFeatures:
        """Features of a prompt, as the user's turn of a chat in which the assistant is about to answer.

        They stay on the device for the last 64 prompts; asked for again, the same tensor is returned: don't change it.
        """
        return self._kept(prompt)

    def _encode(self, prompt: str) -> TextFeatures:
        ids = self.tokenizer(_chat(self.tokenizer, prompt), verbose=False)["input_ids"]
        tokens = torch.tensor([ids[:MAX_TOKENS]], device=self.model.embed_tokens.weight.device)
        return TextFeatures(self.run(tokens)[0], len(ids))


def text_encoder_weights(folder: Path) -> Weights[Qwen3]:
    """Examine the text encoder's folder of a checkpoint; raises CheckpointError."""
    params = Qwen3Params.from_config(Config(folder / "config.json"))
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


def load_tokenizer(folder: Path) -> Qwen2Tokenizer:
    """Load the tokenizer's folder of a checkpoint; raises CheckpointError."""
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise CheckpointError(f"{folder / 'tokenizer.json'}: missing file")
    try:
        tokenizer: Qwen2Tokenizer = Qwen2Tokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{folder}: no tokenizer that transformers can load: {str(error).splitlines()[0]}"
        ) from error
    if not tokenizer.chat_template:
        raise CheckpointError(f"{folder / 'tokenizer_config.json'}: missing field 'chat_template'")
    try:
        _chat(tokenizer, "x")
    except TemplateError as error:
        raise CheckpointError(f"{folder}: its chat template can't be rendered: {one_line(error)}") from error
    return tokenizer


def _chat(tokenizer: Qwen2Tokenizer, prompt: str) -> str:
    """The prompt as a chat's text."""
    turns = [{"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, enable_thinking=True)
    return cast("str", text)
