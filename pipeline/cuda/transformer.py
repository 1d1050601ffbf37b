"""S3-DiT with fused projections and kernels, for CUDA: the same function as `transformer.py`, from the same weights.

Of each block, queries, keys and values are one matrix product, so are the two halves of SwiGLU; what lies between the
products is four kernels, each of which does one pass over memory: [norm, modulation], [norm of heads, rotation],
[gate, sum, next norm, modulation] and [SwiGLU], with quantisation in them when the weights are fp8.
"""

from functools import lru_cache
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from pipeline.cuda.graphs import Graphs
from pipeline.cuda.kernels.rows import gate_, gate_norm, norm, quantize_rows, rotate_qk_, swiglu
from pipeline.formats.fp8 import Rows, matrix, quantize_, settle_
from pipeline.model.layers import ModulatedBlock, attend
from pipeline.model.transformer import Conditioning, Tables, Transformer

# cuDNN's is the quickest on Hopper: 0.5 ms for 4,160 tokens where flash takes 0.8; it has no plan for some masks.
ATTENTION = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]

KEPT_TABLES = 16  # each takes 2 MB for every 1,000 tokens
GRAPH_TOKENS = 2048  # of a batch; for more, the GPU takes longer than Python, and a recording takes memory


class FusedTransformer(Transformer):
    """Takes over the weights of a `Transformer`, block by block to its own device: there is no second copy of them.

    They become bfloat16 there. Those in fp8 stay so, and with `quantize` the others that take it become so.
    """

    def __init__(self, plain: Transformer, device: torch.device, *, quantize: bool) -> None:
        nn.Module.__init__(self)  # the parts come from `plain`
        self.params = plain.params
        for name, child in plain.named_children():
            if name not in ("noise_refiner", "layers"):
                settle_(child, device)
                self.add_module(name, child)
        for name, parameter in plain.named_parameters(recurse=False):
            self.register_parameter(name, nn.Parameter(parameter.to(device).bfloat16(), requires_grad=False))
        self.fused_refiner = FusedStack("noise_refiner", plain.noise_refiner, device, quantize=quantize)
        self.fused_layers = FusedStack("layers", plain.layers, device, quantize=quantize)
        self.graphs = Graphs(self._run)
        self.caption_graphs = Graphs(super().refine_captions)
        self._kept_tables = lru_cache(KEPT_TABLES)(super().tables)

    def forward(self, latents: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        """One evaluation, replayed from a CUDA graph if it is small; arguments as for `Transformer`."""
        if conditioning.rope.shape[:2].numel() > GRAPH_TOKENS:
            return super().forward(latents, timestep, conditioning)
        fixed = conditioning.caption, conditioning.image_rope, conditioning.rope, conditioning.mask
        return self.graphs(latents, timestep, *fixed)

    def _run(
        self,
        latents: Tensor,
        timestep: Tensor,
        caption: Tensor,
        image_rope: Tensor,
        rope: Tensor,
        mask: Tensor | None,
    ) -> Tensor:
        conditioning = Conditioning(caption, image_rope, rope, mask, *latents.shape[-2:])
        return super().forward(latents, timestep, conditioning)

    def tables(self, lengths: tuple[int, ...], height: int, width: int) -> Tables:
        """Those of the last sizes are kept."""
        return self._kept_tables(lengths, height, width)

    def refine_captions(self, x: Tensor, rope: Tensor, mask: Tensor | None) -> Tensor:
        """The context refiners, replayed from a CUDA graph."""
        return self.caption_graphs(x, rope, mask)

    def refine(self, x: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
        """The noise refiners over image tokens `[B, image tokens, dim]`, in place."""
        refined: Tensor = self.fused_refiner(x, time, conditioning.image_rope, None)
        return refined

    def run_layers(self, x: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
        """The main stack over the single stream `[B, image + caption tokens, dim]`, in place."""
        stream: Tensor = self.fused_layers(x, time, conditioning.rope, conditioning.mask)
        return stream


class FusedStack(nn.Module):
    """Modulated blocks in a row; the modulation of all of them is one matrix product."""

    def __init__(self, name: str, blocks: nn.ModuleList, device: torch.device, *, quantize: bool) -> None:
        super().__init__()
        fused, weights, biases = [], [], []
        for i, block in enumerate(cast("list[ModulatedBlock]", list(blocks))):
            if quantize:
                quantize_(block, f"{name}.{i}", device)
            settle_(block, device)
            fused.append(FusedBlock(block))
            modulation = cast("nn.Linear", block.adaLN_modulation[0])
            weights.append(modulation.weight.detach())
            biases.append(modulation.bias.detach())
            block.to("meta")  # its weights live on in the fused block
        self.blocks = nn.ModuleList(fused)
        self.modulation_weight = nn.Buffer(torch.cat(weights))  # [blocks · 4 · dim, time width]
        self.modulation_bias = nn.Buffer(torch.cat(biases))

    def forward(self, x: Tensor, time: Tensor, rope: Tensor, mask: Tensor | None) -> Tensor:
        """Run the blocks over `x` `[B, tokens, dim]`, in place."""
        modulation = F.linear(time, self.modulation_weight, self.modulation_bias).float()
        modulation = modulation.view(len(time), len(self.blocks), 2, 2, -1)  # [B or 1, blocks, sublayers, 2, dim]
        scales, gates = 1 + modulation[..., 0, :], modulation[..., 1, :].tanh()
        blocks = cast("list[FusedBlock]", list(self.blocks))
        h: Tensor | Rows | None
        h = norm(x, blocks[0].attention_norm1, scales[:, 0, 0], blocks[0].norm_eps, quantize=blocks[0].qkv.quantized)
        with sdpa_kernel(ATTENTION, set_priority=True):
            for i, block in enumerate(blocks):
                following = None
                if i + 1 < len(blocks):
                    after = blocks[i + 1]
                    following = Following(after.attention_norm1, scales[:, i + 1, 0], after.qkv.quantized)
                h = block(x, h, rope, mask, scales[:, i, 1], gates[:, i], following)
        return x


class Following(NamedTuple):
    """What the next block's attention wants of its input."""

    norm_weight: Tensor
    scale: Tensor  # [B or 1, dim]
    quantize: bool


class FusedBlock(nn.Module):
    """The weights of one modulated block, joined."""

    def __init__(self, block: ModulatedBlock) -> None:
        super().__init__()
        attention, feed_forward = block.attention, block.feed_forward
        self.num_heads = attention.num_heads
        self.norm_eps, self.head_eps = float(block.attention_norm1.eps or 0), float(attention.norm_q.eps or 0)
        self.qkv = matrix(attention.to_q, attention.to_k, attention.to_v)
        self.out = matrix(cast("nn.Linear", attention.to_out[0]))
        self.w13 = matrix(feed_forward.w1, feed_forward.w3)
        self.w2 = matrix(feed_forward.w2)
        self.head_norms = nn.Buffer(torch.stack([attention.norm_q.weight, attention.norm_k.weight]))
        self.attention_norm1 = nn.Buffer(block.attention_norm1.weight.detach())
        self.attention_norm2 = nn.Buffer(block.attention_norm2.weight.detach())
        self.ffn_norm1 = nn.Buffer(block.ffn_norm1.weight.detach())
        self.ffn_norm2 = nn.Buffer(block.ffn_norm2.weight.detach())

    def forward(
        self,
        x: Tensor,
        h: Tensor | Rows,
        rope: Tensor,
        mask: Tensor | None,
        scale: Tensor,
        gates: Tensor,
        following: Following | None,
    ) -> Tensor | Rows | None:
        """Both sublayers, added to `x` in place.

        Args:
            x: the stream `[B, tokens, dim]`.
            h: `x` normed and scaled for attention.
            rope: as in `Conditioning`.
            mask: as in `Conditioning`.
            scale: of the feed-forward's input, `[B or 1, dim]`.
            gates: of both sublayers, `[B or 1, 2, dim]`.
            following: the next block's attention.

        Returns:
            The next block's `h`; None without one.
        """
        branch = self._attend(h, x.shape, rope, mask)
        h = gate_norm(
            x,
            branch,
            self.attention_norm2,
            gates[:, 0],
            self.ffn_norm1,
            scale,
            self.norm_eps,
            quantize=self.w13.quantized,
        )
        hidden = swiglu(self.w13(h).view(*x.shape[:2], -1), quantize=self.w2.quantized)
        branch = self.w2(hidden).view(x.shape)
        if following is None:
            gate_(x, branch, self.ffn_norm2, gates[:, 1], self.norm_eps)
            return None
        weight, scale, quantize = following
        return gate_norm(x, branch, self.ffn_norm2, gates[:, 1], weight, scale, self.norm_eps, quantize=quantize)

    def _attend(self, h: Tensor | Rows, shape: torch.Size, rope: Tensor, mask: Tensor | None) -> Tensor:
        """Attention between its projections; the answer has `shape`."""
        qkv = self.qkv(h).view(*shape[:2], -1)
        rotate_qk_(qkv, self.head_norms, rope, self.num_heads, self.head_eps)
        q, k, v = qkv.unflatten(-1, (3, self.num_heads, -1)).unbind(2)
        attended = attend(q, k, v, mask).flatten(-2)
        branch: Tensor = self.out(quantize_rows(attended.contiguous()) if self.out.quantized else attended)
        return branch.view(shape)
