"""S3-DiT, the Scalable Single-Stream Diffusion Transformer of Z-Image (arXiv 2511.22699).

Owns the network from noisy latents and caption features to the negated velocity. Image tokens and caption tokens are
refined apart, then run through one stack of layers as a single stream. Parameters are named as in the released
checkpoint. What depends on the captions and the image size alone is computed once per call, by `prepare`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from pipeline.model.layers import ContextBlock, FinalLayer, ModulatedBlock, TimestepEmbedder, sinusoid
from pipeline.model.stack import Conditioning, PlainStack, Stack

TOKEN_MULTIPLE = 32  # each stream is filled up to a multiple of this with pad tokens that are attended to


@dataclass(frozen=True)
class TransformerParams:
    """The shape of the network, Turbo's by default."""

    in_channels: int = 16  # of the latents
    patch_size: int = 2  # latent pixels on a side that make one token
    caption_dim: int = 2560  # width of the text encoder's features
    dim: int = 3840
    num_heads: int = 30
    num_layers: int = 30
    num_refiner_layers: int = 2
    norm_eps: float = 1e-5
    rope_theta: float = 256.0
    rope_axes: tuple[int, ...] = (32, 48, 48)  # channels of a head that turn with (sequence, row, column)
    time_scale: float = 1000.0


@dataclass(frozen=True, kw_only=True)
class Prepared(Conditioning):
    """What no timestep changes, for B captions and one size; `rope` and `mask` are of [image; caption] tokens."""

    caption: Tensor  # [B, caption tokens, dim], embedded and refined
    image_rope: Tensor  # of the image tokens
    height: int  # of the latents
    width: int


@dataclass(frozen=True)
class Tables:
    """What the sizes alone decide, for one row a caption; rotary tables as in `Conditioning`."""

    caption_rope: Tensor  # of one row
    image_rope: Tensor
    rope: Tensor
    mask: Tensor | None  # [captions, 1, 1, caption tokens], True where attended; None when every token is


class Transformer(nn.Module):
    """From noisy latents `[B, C, H, W]` and timestep to the negated velocity `[B, C, H, W]`, in the weights' dtype."""

    def __init__(self, params: TransformerParams) -> None:
        super().__init__()
        self.params = params
        dim, heads, eps, patch = params.dim, params.num_heads, params.norm_eps, params.patch_size
        token_values = patch * patch * params.in_channels

        self.t_embedder = TimestepEmbedder(dim)
        self.cap_embedder = nn.Sequential(nn.RMSNorm(params.caption_dim, eps=eps), nn.Linear(params.caption_dim, dim))
        self.cap_pad_token = nn.Parameter(torch.zeros(1, dim))
        self.context_refiner = nn.ModuleList(ContextBlock(dim, heads, eps) for _ in range(params.num_refiner_layers))
        # Keyed by patch size and frame patch size, as in the checkpoint: "2-1".
        self.all_x_embedder = nn.ModuleDict({f"{patch}-1": nn.Linear(token_values, dim)})
        self.x_pad_token = nn.Parameter(torch.zeros(1, dim))
        self.noise_refiner = nn.ModuleList(ModulatedBlock(dim, heads, eps) for _ in range(params.num_refiner_layers))
        self.layers = nn.ModuleList(ModulatedBlock(dim, heads, eps) for _ in range(params.num_layers))
        self.all_final_layer = nn.ModuleDict({f"{patch}-1": FinalLayer(dim, token_values)})
        self.stack: Stack = PlainStack(cast("Sequence[ModulatedBlock]", self.layers))

    def forward(self, latents: Tensor, timestep: Tensor, prepared: Prepared) -> Tensor:
        """One evaluation.

        Args:
            latents: `[B, C, H, W]`, any floating-point type.
            timestep: `[B]`, or `[1]` for all: 0 for pure noise, 1 for a finished image.
            prepared: from `prepare`, for the same B, H and W.
        """
        x, time = self.embed(latents, timestep, prepared.caption, prepared.image_rope)
        x = self.stack.run(x, time, prepared, 0, self.params.num_layers)
        return self.unpatchify(x, time, prepared.height, prepared.width)

    def embed(self, latents: Tensor, timestep: Tensor, caption: Tensor, image_rope: Tensor) -> tuple[Tensor, Tensor]:
        """The stream before the layers, `[B, image + caption tokens, dim]`, and the timestep's embedding."""
        time = self.embed_time(timestep)
        x = self.embed_image(latents)  # [B, image tokens, dim]
        x = self.refine(x, time, image_rope)
        return torch.cat([x, caption], dim=1), time

    def prepare(self, captions: Sequence[Tensor], height: int, width: int) -> Prepared:
        """Compute what no timestep changes: refined captions, rotary tables and the mask.

        Args:
            captions: features `[tokens, caption_dim]` of each caption; their lengths may differ.
            height: of the latents.
            width: of the latents.
        """
        # Pad tokens fill each caption up; zeros after them fill the batch up, and only those are masked.
        embedded = [self._embed_caption(caption) for caption in captions]
        tables = self.tables(tuple(len(x) for x in embedded), height, width)
        x = self.refine_captions(pad_sequence(embedded, batch_first=True), tables.caption_rope, tables.mask)
        mask = tables.mask
        if mask is not None:
            mask = F.pad(mask, (tables.image_rope.shape[1], 0), value=True)
        return Prepared(
            caption=x,
            image_rope=tables.image_rope,
            rope=tables.rope,
            mask=mask,
            height=height,
            width=width,
        )

    def tables(self, lengths: tuple[int, ...], height: int, width: int) -> Tables:
        """Rotary tables and mask of captions of so many tokens, pads included, and latents of one size."""
        caption_tokens, device = max(lengths), self.cap_pad_token.device
        order = torch.arange(caption_tokens, device=device)
        caption_rope = self._rope(F.pad(1 + order[None, :, None], (0, 2)))  # tokens at (1 + i, 0, 0)
        ends = torch.tensor(lengths, device=device)
        image_rope = self._rope(self._image_positions(ends, height, width))
        return Tables(
            caption_rope=caption_rope,
            image_rope=image_rope,
            rope=torch.cat([image_rope, caption_rope.expand(len(lengths), -1, -1, -1, -1)], dim=1),
            mask=None if min(lengths) == caption_tokens else (order < ends[:, None])[:, None, None],
        )

    def refine_captions(self, x: Tensor, rope: Tensor, mask: Tensor | None) -> Tensor:
        """The context refiners over embedded captions `[captions, tokens, dim]`."""
        for block in self.context_refiner:
            x = block(x, rope, mask)
        return x

    def embed_time(self, timestep: Tensor) -> Tensor:
        """Embedding `[B or 1, time width]` of timesteps in 0 (noise) to 1 (image)."""
        frequencies = sinusoid(timestep.float() * self.params.time_scale)
        time: Tensor = self.t_embedder(frequencies.to(self.x_pad_token.dtype))
        return time

    def embed_image(self, latents: Tensor) -> Tensor:
        """Latents `[B, C, H, W]` to tokens `[B, image tokens, dim]`, filled up with pad tokens."""
        patch, (batch, channels, height, width) = self.params.patch_size, latents.shape
        x = latents.to(self.x_pad_token.dtype)
        x = x.reshape(batch, channels, height // patch, patch, width // patch, patch)
        x = x.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)  # [B, rows · columns, patch · patch · C]
        x = self.all_x_embedder[f"{patch}-1"](x)
        pads = self._image_tokens(height, width) - x.shape[1]
        return torch.cat([x, self.x_pad_token.expand(batch, pads, -1)], dim=1)

    def refine(self, x: Tensor, time: Tensor, image_rope: Tensor) -> Tensor:
        """The noise refiners over image tokens `[B, image tokens, dim]`; all images have one size, so no mask."""
        for block in self.noise_refiner:
            x = block(x, image_rope, None, time)
        return x

    def unpatchify(self, x: Tensor, time: Tensor, height: int, width: int) -> Tensor:
        """The stream's image tokens through the final layer, and back to `[B, C, H, W]`."""
        patch = self.params.patch_size
        rows, columns = height // patch, width // patch
        x = self.all_final_layer[f"{patch}-1"](x[:, : rows * columns], time)
        x = x.reshape(len(x), rows, columns, patch, patch, self.params.in_channels)
        return x.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)

    def _embed_caption(self, caption: Tensor) -> Tensor:
        x: Tensor = self.cap_embedder(caption.to(self.cap_pad_token))
        return torch.cat([x, self.cap_pad_token.expand(_round_up(len(x)) - len(x), -1)])

    def _image_tokens(self, height: int, width: int) -> int:
        return _round_up((height // self.params.patch_size) * (width // self.params.patch_size))

    def _image_positions(self, caption_ends: Tensor, height: int, width: int) -> Tensor:
        """Positions `[captions, image tokens, 3]`: (1 + padded caption length, row, column), and pads at the origin."""
        patch = self.params.patch_size
        rows, columns = (torch.arange(size // patch, device=caption_ends.device) for size in (height, width))
        row, column = torch.meshgrid(rows, columns, indexing="ij")
        grid = torch.stack([torch.zeros_like(row), row, column], dim=-1).flatten(0, 1)
        positions = grid + F.pad(1 + caption_ends[:, None, None], (0, 2))
        return F.pad(positions, (0, 0, 0, self._image_tokens(height, width) - len(grid)))

    def _rope(self, positions: Tensor) -> Tensor:
        """Rotary table (arXiv 2104.09864) of positions `[…, 3]`: each axis turns its own share of a head's channels."""
        angles = []
        for axis, channels in enumerate(self.params.rope_axes):
            exponents = torch.arange(0, channels, 2, dtype=torch.float64, device=positions.device) / channels
            angles.append(positions[..., axis, None] * (1.0 / self.params.rope_theta**exponents))
        angle = torch.cat(angles, dim=-1).float()  # float64 until here, as the model was trained
        return torch.stack([angle.cos(), angle.sin()], dim=-1).unsqueeze(-3)


def _round_up(tokens: int) -> int:
    return -(-tokens // TOKEN_MULTIPLE) * TOKEN_MULTIPLE
