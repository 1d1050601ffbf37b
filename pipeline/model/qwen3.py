"""Qwen3 (arXiv 2505.09388) as a reader of text: from token ids to the hidden states behind its layers.

Parameters are named as in transformers' checkpoints, whose own class would do, but for the seconds that importing it
adds to the start of a worker.
"""

# ruff: noqa: D102, RET504 - a class says what its forward does; assigned to x, a module's answer has a type for mypy

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn


@dataclass(frozen=True)
class Qwen3Params:
    """The shape of the network."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    norm_eps: float
    rope_theta: float


class Qwen3(nn.Module):
    """From token ids `[B, tokens]` to hidden states `[B, tokens, hidden_size]`, without the final norm."""

    def __init__(self, params: Qwen3Params) -> None:
        super().__init__()
        self.params = params
        # Weights come from files. To draw random ones first would, on the meta device, import all of torch._dynamo.
        empty = torch.empty(params.vocab_size, params.hidden_size)
        self.embed_tokens = nn.Embedding.from_pretrained(empty)  # type: ignore[no-untyped-call]
        self.layers = nn.ModuleList(DecoderLayer(params) for _ in range(params.num_layers))

    def forward(self, tokens: Tensor) -> Tensor:
        x: Tensor = self.embed_tokens(tokens)
        rope = self._rotary_table(tokens.shape[1], x)
        for layer in self.layers:
            x = layer(x, rope)
        return x

    def _rotary_table(self, tokens: int, like: Tensor) -> Tensor:
        """Return `[2, tokens, head_dim]`, cosines and sines, for channels i and i + head_dim / 2 alike."""
        half = torch.arange(0, self.params.head_dim, 2, dtype=torch.float32, device=like.device)
        frequencies = self.params.rope_theta ** -(half / self.params.head_dim)
        positions = torch.arange(tokens, dtype=torch.float32, device=like.device)
        angles = (positions[:, None] * frequencies).repeat(1, 2)
        return torch.stack([angles.cos(), angles.sin()]).to(like.dtype)


class DecoderLayer(nn.Module):
    """Attention and feed-forward over `[B, tokens, hidden_size]`, a norm before each."""

    def __init__(self, params: Qwen3Params) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(params.hidden_size, eps=params.norm_eps)
        self.self_attn = CausalAttention(params)
        self.post_attention_layernorm = nn.RMSNorm(params.hidden_size, eps=params.norm_eps)
        self.mlp = SwiGLU(params.hidden_size, params.intermediate_size)

    def forward(self, x: Tensor, rope: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rope)
        x = x + self.mlp(self.post_attention_layernorm(x))
        return x


class CausalAttention(nn.Module):
    """Attention to earlier tokens; several query heads share a key and value head (arXiv 2305.13245)."""

    def __init__(self, params: Qwen3Params) -> None:
        super().__init__()
        self.head_dim = params.head_dim
        queries, keys = params.num_heads * params.head_dim, params.num_kv_heads * params.head_dim
        self.q_proj = nn.Linear(params.hidden_size, queries, bias=False)
        self.k_proj = nn.Linear(params.hidden_size, keys, bias=False)
        self.v_proj = nn.Linear(params.hidden_size, keys, bias=False)
        self.o_proj = nn.Linear(queries, params.hidden_size, bias=False)
        self.q_norm = nn.RMSNorm(params.head_dim, eps=params.norm_eps)
        self.k_norm = nn.RMSNorm(params.head_dim, eps=params.norm_eps)

    def forward(self, x: Tensor, rope: Tensor) -> Tensor:
        heads = (-1, self.head_dim)
        q = _rotate(self.q_norm(self.q_proj(x).unflatten(-1, heads)).transpose(1, 2), rope)
        k = _rotate(self.k_norm(self.k_proj(x).unflatten(-1, heads)).transpose(1, 2), rope)
        v = self.v_proj(x).unflatten(-1, heads).transpose(1, 2)  # [B, heads, tokens, head_dim]
        x = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = self.o_proj(x.transpose(1, 2).flatten(-2))
        return x


class SwiGLU(nn.Module):
    """The feed-forward of arXiv 2002.05202."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return x


def _rotate(x: Tensor, rope: Tensor) -> Tensor:
    """Turn channels i and i + head_dim / 2 of `[B, heads, tokens, head_dim]` by their token's angle."""
    cos, sin = rope.unbind()
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin
