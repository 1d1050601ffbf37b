"""Qwen3 as text encoder: from a prompt to the features that Z-Image's transformer reads (arXiv 2511.22699).

The features are the input of Qwen3's last layer, so the model has neither that layer nor the final norm.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from transformers import Qwen2Tokenizer

from pipeline.model.qwen3 import Qwen3

MAX_TOKENS = 512  # what the transformer was trained to read


@dataclass(frozen=True)
class TextFeatures:
    """Features of one prompt, and how many tokens the prompt had before it was cut to the first 512."""

    features: Tensor  # [min(tokens, 512), hidden]
    tokens: int
    reused: bool = False  # whether they are those of an earlier call

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

    def encode(self, prompt: str) -> TextFeatures:
        """Features of a prompt, as the user's turn of a chat in which the assistant is about to answer."""
        ids = self.tokenizer(chat(self.tokenizer, prompt), verbose=False)["input_ids"]
        tokens = torch.tensor([ids[:MAX_TOKENS]], device=self.model.embed_tokens.weight.device)
        return TextFeatures(self.run(tokens)[0], len(ids))


def chat(tokenizer: Qwen2Tokenizer, prompt: str) -> str:
    """The text of a chat in which a user says the prompt and the assistant is about to answer.

    Raises:
        jinja2.TemplateError: the tokenizer's chat template can't be rendered.
    """
    turns = [{"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, enable_thinking=True)
    return cast("str", text)
