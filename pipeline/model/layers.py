"""The layers of S3-DiT (arXiv 2511.22699): attention, feed-forward, and the blocks that `transformer.py` stacks.

`attend` is what fused layers call too, so that one place decides how attention is computed.
"""

# ruff: noqa: D102, RET504 - a class says what its forward does; assigned to x, a module's answer has a type for mypy

import math

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn

TIME_FREQUENCIES = 256  # width of the timestep's sinusoid
TIME_WIDTH = 256  # width of its embedding, unless the model is narrower
TIME_HIDDEN = 1024


class TimestepEmbedder(nn.Module):
    """Sinusoids `[B, 256]` of timesteps to embeddings `[B, width]`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(TIME_FREQUENCIES, TIME_HIDDEN), nn.SiLU(), nn.Linear(TIME_HIDDEN, min(dim, TIME_WIDTH))
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.mlp(x)
        return x


class Block(nn.Module):
    """The parts of a layer, each sublayer with a norm before and behind it; the subclasses say how data meets them."""

    def __init__(self, dim: int, num_heads: int, eps: float) -> None:
        super().__init__()
        self.attention_norm1 = nn.RMSNorm(dim, eps=eps)
        self.attention = Attention(dim, num_heads)
        self.attention_norm2 = nn.RMSNorm(dim, eps=eps)
        self.ffn_norm1 = nn.RMSNorm(dim, eps=eps)
        self.feed_forward = FeedForward(dim)
        self.ffn_norm2 = nn.RMSNorm(dim, eps=eps)


class ContextBlock(Block):
    """A layer over caption tokens `[B, tokens, dim]`, which no timestep reaches."""

    def forward(self, x: Tensor, rope: Tensor, mask: Tensor | None) -> Tensor:
        x = x + self.attention_norm2(self.attention(self.attention_norm1(x), rope, mask))
        x = x + self.ffn_norm2(self.feed_forward(self.ffn_norm1(x)))
        return x


class ModulatedBlock(Block):
    """A layer over `[B, tokens, dim]` whose sublayers the timestep scales and gates."""

    def __init__(self, dim: int, num_heads: int, eps: float) -> None:
        super().__init__(dim, num_heads, eps)
        self.adaLN_modulation = nn.Sequential(nn.Linear(min(dim, TIME_WIDTH), 4 * dim))

    def forward(self, x: Tensor, rope: Tensor, mask: Tensor | None, time: Tensor) -> Tensor:
        scale_attn, gate_attn, scale_ffn, gate_ffn = self.adaLN_modulation(time)[:, None].chunk(4, dim=-1)
        h = self.attention_norm1(x) * (1 + scale_attn)
        x = x + gate_attn.tanh() * self.attention_norm2(self.attention(h, rope, mask))
        h = self.ffn_norm1(x) * (1 + scale_ffn)
        x = x + gate_ffn.tanh() * self.ffn_norm2(self.feed_forward(h))
        return x


class Attention(nn.Module):
    """Self-attention over `[B, tokens, dim]` with normed, rotated queries and keys."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_k = nn.Linear(dim, dim, bias=False)
        self.to_v = nn.Linear(dim, dim, bias=False)
        self.norm_q = nn.RMSNorm(dim // num_heads, eps=1e-5)
        self.norm_k = nn.RMSNorm(dim // num_heads, eps=1e-5)
        self.to_out = nn.Sequential(nn.Linear(dim, dim, bias=False))

    def forward(self, x: Tensor, rope: Tensor, mask: Tensor | None) -> Tensor:
        heads = (self.num_heads, -1)
        q = rotate(self.norm_q(self.to_q(x).unflatten(-1, heads)), rope)  # [B, tokens, heads, head_dim]
        k = rotate(self.norm_k(self.to_k(x).unflatten(-1, heads)), rope)
        v = self.to_v(x).unflatten(-1, heads)
        x = self.to_out(attend(q, k, v, mask).flatten(-2))
        return x


class FeedForward(nn.Module):
    """SwiGLU (arXiv 2002.05202): w1 gates, w3 goes up, w2 comes down."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = int(dim / 3 * 8)
        self.w1 = nn.Linear(dim, hidden, bias=False)
        self.w3 = nn.Linear(dim, hidden, bias=False)
        self.w2 = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.w2(F.silu(self.w1(x)) * self.w3(x))
        return x


class FinalLayer(nn.Module):
    """Image tokens `[B, tokens, dim]` to the values of their patches `[B, tokens, patch · patch · C]`."""

    def __init__(self, dim: int, token_values: int) -> None:
        super().__init__()
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(min(dim, TIME_WIDTH), dim))
        self.norm_final = nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)
        self.linear = nn.Linear(dim, token_values)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        x = self.linear(self.norm_final(x) * (1 + self.adaLN_modulation(time)[:, None]))
        return x


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of `[B, tokens, heads, head_dim]` over all tokens, or those where mask `[B, 1, 1, tokens]` is True."""
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)


def rotate(x: Tensor, rope: Tensor) -> Tensor:
    """Turn each pair of neighbouring channels of `[B, tokens, heads, head_dim]` by its angle, in float32."""
    even, odd = x[..., 0::2].float(), x[..., 1::2].float()
    cos, sin = rope.unbind(-1)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2).type_as(x)


def sinusoid(timestep: Tensor) -> Tensor:
    """Sinusoidal embedding (arXiv 1706.03762) `[B, 256]` of float32 timesteps `[B]`, cosines first."""
    half = TIME_FREQUENCIES // 2
    exponents = torch.arange(half, dtype=torch.float32, device=timestep.device)
    angles = timestep[:, None] * torch.exp(-math.log(10000) * exponents / half)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)
