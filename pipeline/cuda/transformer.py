"""S3-DiT with fused projections and kernels, for CUDA: the same function as `pipeline.model`, from the same weights.

Of each block, queries, keys and values are one matrix product, so are the two halves of SwiGLU; what lies between the
products is four kernels, each of which does one pass over memory: [norm, modulation], [norm of heads, rotation],
[gate, sum, next norm, modulation] and [SwiGLU], with quantisation in them where the next product wants it.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn

from pipeline.cuda import graphs
from pipeline.cuda.attention import attend_by_first
from pipeline.cuda.kernels.rows import gate_, gate_norm, norm, quantize_rows, rotate_qk_, swiglu
from pipeline.formats.number_format import Matrix, NumberFormat
from pipeline.formats.quantizing import join, quantize_, settle_
from pipeline.formats.row_format import RowFormat, Rows
from pipeline.model.layers import ModulatedBlock, attend
from pipeline.model.stack import Conditioning
from pipeline.model.transformer import Tables, Transformer

KEPT_TABLES = 16  # each takes 2 MB for every 1,000 tokens; one is kept where memory is short


class FusedTransformer(Transformer):
    """Takes over the weights of a `Transformer`, block by block to its own device: there is no second copy of them.

    They become bfloat16 there. Those in a number format stay so, and the others that `number_format` takes become so.
    What is done for small pictures is replayed from CUDA graphs, but for the stack, which is its wrapper's to record.

    Args:
        plain: what to take over.
        device: where to.
        number_format: of the matrices that it takes.
        settle: called with the number of each layer and the layer, once it is fused; it may move its weights away.
        recorded: whether graphs may be recorded; they read weights where those lay then.
        kept_tables: of how many sizes, and lengths of captions, rotary tables are kept.
    """

    def __init__(
        self,
        plain: Transformer,
        device: torch.device,
        number_format: NumberFormat | None,
        settle: Callable[[int, nn.Module], None] | None = None,
        *,
        recorded: bool = True,
        kept_tables: int = KEPT_TABLES,
    ) -> None:
        nn.Module.__init__(self)  # the parts come from `plain`
        self.params = plain.params
        for name, child in plain.named_children():
            if name not in ("noise_refiner", "layers"):
                settle_(child, device)
                self.add_module(name, child)
        for name, parameter in plain.named_parameters(recurse=False):
            self.register_parameter(name, nn.Parameter(parameter.to(device).bfloat16(), requires_grad=False))
        self.add_module("noise_refiner", FusedLayers("noise_refiner", plain.noise_refiner, device, number_format))
        layers = FusedLayers("layers", plain.layers, device, number_format, settle)
        self.add_module("layers", layers)
        self.stack = FusedStack(layers)
        self._recorded = recorded
        self._embedded = graphs.Graphs(super().embed)
        refine = super().refine_captions

        def refine_captions(x: Tensor, rope: Tensor, mask: Tensor | None) -> Tensor:
            return attend_by_first(_kind(mask), lambda: refine(x, rope, mask))

        self._refined_captions = graphs.Graphs(refine_captions) if recorded else refine_captions
        self._kept_tables = lru_cache(kept_tables)(super().tables)

    def embed(self, latents: Tensor, timestep: Tensor, caption: Tensor, image_rope: Tensor) -> tuple[Tensor, Tensor]:
        """As in `Transformer`; replayed from a CUDA graph if it is small."""
        small = self._recorded and graphs.worthwhile(len(caption) * (image_rope.shape[1] + caption.shape[1]))
        embed = self._embedded if small else super().embed
        return embed(latents, timestep, caption, image_rope)

    def refine(self, x: Tensor, time: Tensor, image_rope: Tensor) -> Tensor:
        """The noise refiners over image tokens `[B, image tokens, dim]`, in place."""
        refiner = cast("FusedLayers", self.noise_refiner)
        return refiner.run(x, time, Conditioning(image_rope, None), 0, len(refiner.blocks))

    def tables(self, lengths: tuple[int, ...], height: int, width: int) -> Tables:
        """Those of the last sizes are kept."""
        return self._kept_tables(lengths, height, width)

    def refine_captions(self, x: Tensor, rope: Tensor, mask: Tensor | None) -> Tensor:
        """The context refiners, replayed from a CUDA graph if one may be recorded."""
        return self._refined_captions(x, rope, mask)


class FusedStack:
    """The fused layers as a stack that is no module: torch lets none be replaced by a wrapper that is none."""

    def __init__(self, layers: "FusedLayers") -> None:
        self._layers = layers

    def run(self, x: Tensor, time: Tensor, conditioning: Conditioning, first: int, last: int) -> Tensor:
        """Run a range of layers, as in `Stack`."""
        return self._layers.run(x, time, conditioning, first, last)


class Modulation(Matrix):
    """Modulation of all blocks in one product: embeddings `[B or 1, time width]` to `[B or 1, blocks · 4 · dim]`."""

    def __init__(self, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> None:
        super().__init__()
        self.weight = nn.Buffer(torch.cat(list(weights)))
        self.bias = nn.Buffer(torch.cat(list(biases)))
        each = len(biases[0])
        self.parts = {f"{i}.adaLN_modulation.0": slice(i * each, (i + 1) * each) for i in range(len(biases))}

    def forward(self, x: Tensor) -> Tensor:
        """From `[…, in]` to `[…, out]`."""
        return F.linear(x, self.weight, self.bias)


class FusedLayers(nn.Module):
    """Modulated blocks; those of a range are one chain of kernels, each block's last one norms for the next.

    Takes over the weights block by block, as `FusedTransformer`.
    """

    def __init__(
        self,
        name: str,
        blocks: nn.ModuleList,
        device: torch.device,
        number_format: NumberFormat | None,
        settle: Callable[[int, nn.Module], None] | None = None,
    ) -> None:
        super().__init__()
        self.blocks: list[FusedBlock] = []
        weights, biases = [], []
        for i, block in enumerate(cast("list[ModulatedBlock]", list(blocks))):
            if number_format:
                quantize_(block, f"{name}.{i}", number_format, device)
            settle_(block, device)
            self.blocks.append(FusedBlock(block))
            self.add_module(f"{i}", self.blocks[i])  # named as in the checkpoint
            modulation = cast("nn.Linear", block.adaLN_modulation[0])
            weights.append(modulation.weight.detach())
            biases.append(modulation.bias.detach())
            block.to("meta")  # its weights live on in the fused block
            if settle:
                settle(i, self.blocks[i])
        self.modulation = Modulation(weights, biases)

    def run(self, x: Tensor, time: Tensor, conditioning: Conditioning, first: int, last: int) -> Tensor:
        """Run a range of blocks, as in `Stack`; the stream is changed in place."""
        if first == last:
            return x
        blocks = self.blocks[first:last]
        scales, gates = self._modulation(time, first, last)
        h: Tensor | Rows | None
        h = norm(x, blocks[0].attention_norm1, scales[:, 0, 0], blocks[0].norm_eps, blocks[0].qkv.rows)
        for i, block in enumerate(blocks):
            following = None
            if i + 1 < len(blocks):
                after = blocks[i + 1]
                following = Following(after.attention_norm1, scales[:, i + 1, 0], after.qkv.rows)
            h = block(x, h, conditioning.rope, conditioning.mask, scales[:, i, 1], gates[:, i], following)
        return x

    def _modulation(self, time: Tensor, first: int, last: int) -> tuple[Tensor, Tensor]:
        """Scales and gates, float32 `[B or 1, blocks, sublayers, dim]`, of a range of blocks."""
        modulation = self.modulation(time).float()
        modulation = modulation.view(len(time), len(self.blocks), 2, 2, -1)  # sublayers, then scale and gate
        modulation = modulation[:, first:last]
        return 1 + modulation[..., 0, :], modulation[..., 1, :].tanh()


class Following(NamedTuple):
    """What the next block's attention wants of its input."""

    norm_weight: Tensor
    scale: Tensor  # [B or 1, dim]
    rows: RowFormat | None


class FusedBlock(nn.Module):
    """The weights of one modulated block, joined."""

    def __init__(self, block: ModulatedBlock) -> None:
        super().__init__()
        attention = block.attention
        self.num_heads = attention.num_heads
        self.norm_eps, self.head_eps = float(block.attention_norm1.eps or 0), float(attention.norm_q.eps or 0)
        self.qkv = join(block, "attention.to_q", "attention.to_k", "attention.to_v")
        self.out = join(block, "attention.to_out.0")
        self.w13 = join(block, "feed_forward.w1", "feed_forward.w3")
        self.w2 = join(block, "feed_forward.w2")
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
            self.w13.rows,
        )
        hidden = swiglu(self.w13(h).view(*x.shape[:2], -1), self.w2.rows)
        branch = self.w2(hidden).view(x.shape)
        if following is None:
            gate_(x, branch, self.ffn_norm2, gates[:, 1], self.norm_eps)
            return None
        weight, scale, rows = following
        return gate_norm(x, branch, self.ffn_norm2, gates[:, 1], weight, scale, self.norm_eps, rows)

    def _attend(self, h: Tensor | Rows, shape: torch.Size, rope: Tensor, mask: Tensor | None) -> Tensor:
        """Attention between its projections; the answer has `shape`."""
        qkv = self.qkv(h).view(*shape[:2], -1)
        rotate_qk_(qkv, self.head_norms, rope, self.num_heads, self.head_eps)
        q, k, v = qkv.unflatten(-1, (3, self.num_heads, -1)).unbind(2)
        attended = attend_by_first(_kind(mask), lambda: attend(q, k, v, mask)).flatten(-2)
        branch: Tensor = self.out(quantize_rows(attended.contiguous(), self.out.rows) if self.out.rows else attended)
        return branch.view(shape)


def _kind(mask: Tensor | None) -> str:
    """What attention backends differ in."""
    return "all tokens" if mask is None else "masked tokens"
