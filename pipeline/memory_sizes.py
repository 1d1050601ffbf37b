"""What Z-Image's networks take of memory: their weights and, for a picture, their activations.

All of it is arithmetic on the shapes of the networks, so it can be done before anything is loaded, for a card that is
not there, and without torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

# How the VAE decodes: the whole picture at once; in bands of rows between which activations lie on the GPU; the same,
# and they lie in host memory.
DECODINGS = ("whole", "bands", "host")
# At most, in a band of the decoder's rows, by the bytes of a value. In bfloat16 cuDNN rounds smaller ones otherwise
# than the whole; the reference's copies in float32 take more.
BAND_VALUES = {2: 2**26, 4: 2**23}
GRAPH_TOKENS = 2048  # of a batch that is replayed from CUDA graphs: for more, the GPU takes longer than Python
CAPTION_TOKENS = 512  # of the longest prompt
ATTENTION_ROWS = 4096  # queries of the middle block at a time: at 1024×1024 pixels their float32 scores take 256 MiB


@dataclass(frozen=True)
class Shape:
    """The shape of the three networks, Turbo's by default; named as in their `…Params`."""

    dim: int = 3840
    num_layers: int = 30
    num_refiner_layers: int = 2
    head_dim: int = 128
    caption_dim: int = 2560
    token_values: int = 64  # of a patch
    text_hidden: int = 2560
    text_intermediate: int = 9728
    text_layers: int = 35  # those that run: the released ones but the last
    text_queries: int = 4096  # heads times their width
    text_keys: int = 1024
    text_head_dim: int = 128
    vocab_size: int = 151936
    latent_channels: int = 16
    image_channels: int = 3
    block_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    patch_size: int = 2

    @classmethod
    def of(cls, transformer: Any, text_encoder: Any, autoencoder: Any) -> "Shape":
        """That of a checkpoint.

        Args:
            transformer: its `TransformerParams`.
            text_encoder: its `Qwen3Params`, of the layers that run.
            autoencoder: its `AutoencoderParams`.
        """
        return cls(
            dim=transformer.dim,
            num_layers=transformer.num_layers,
            num_refiner_layers=transformer.num_refiner_layers,
            head_dim=transformer.dim // transformer.num_heads,
            caption_dim=transformer.caption_dim,
            token_values=transformer.in_channels * transformer.patch_size**2,
            text_hidden=text_encoder.hidden_size,
            text_intermediate=text_encoder.intermediate_size,
            text_layers=text_encoder.num_layers,
            text_queries=text_encoder.num_heads * text_encoder.head_dim,
            text_keys=text_encoder.num_kv_heads * text_encoder.head_dim,
            text_head_dim=text_encoder.head_dim,
            vocab_size=text_encoder.vocab_size,
            latent_channels=autoencoder.latent_channels,
            image_channels=autoencoder.in_channels,
            block_channels=autoencoder.block_channels,
            layers_per_block=autoencoder.layers_per_block,
            patch_size=transformer.patch_size,
        )

    @property
    def downscale(self) -> int:
        """Pixels on a side of one latent pixel."""
        downscale: int = 2 ** (len(self.block_channels) - 1)
        return downscale


TURBO = Shape()


@dataclass(frozen=True)
class Picture:
    """What of a drawing decides how much memory it takes."""

    height: int = 1024
    width: int = 1024
    num_images: int = 1
    guided: bool = False
    step_cache: bool = False
    caption_tokens: int = CAPTION_TOKENS

    @property
    def pixels(self) -> int:
        """Of one image."""
        return self.height * self.width

    def tokens(self, shape: Shape) -> int:
        """Of one row of the stream."""
        side = shape.downscale * shape.patch_size
        return _round_up((self.height // side) * (self.width // side), 32) + _round_up(self.caption_tokens, 32)


@dataclass(frozen=True)
class PartSizes:
    """Bytes of a part's weights, and of its CUDA graphs."""

    layers: int  # how many can be streamed
    layer_bytes: int  # that one of them moves
    rest_bytes: int  # that stay on the GPU while the part is there
    host_bytes: int = 0  # that stay in host memory unless the part is resident: the table of token embeddings
    recorded_bytes: int = 0  # at most, that PyTorch keeps for its graphs; those of a resident part alone are recorded

    @property
    def total(self) -> int:
        """All of them."""
        return self.layers * self.layer_bytes + self.rest_bytes + self.host_bytes


@dataclass(frozen=True)
class Sizes:
    """Bytes of all weights, and what activations take."""

    shape: Shape
    value_bytes: int  # of an activation, and of a weight in no number format
    text_encoder: PartSizes
    transformer: PartSizes
    vae: PartSizes
    token_bytes: int  # that the transformer's layers take for one token of one row

    @classmethod
    def of(
        cls,
        shape: Shape = TURBO,
        *,
        value_bytes: int = 2,
        quantized_bytes: int | None = None,
        text_quantized_bytes: int | None = None,
        fused: bool = True,
    ) -> "Sizes":
        """Count them.

        Args:
            shape: of the networks.
            value_bytes: of a number: 2 for bfloat16.
            quantized_bytes: of a number of the transformer's large matrices in a number format, 1 for fp8; None: they
                are in none.
            text_quantized_bytes: the same of the text encoder's.
            fused: whether the parts are those of `pipeline.cuda`.
        """
        text_encoder = _text_encoder(shape, value_bytes, text_quantized_bytes)
        transformer = _transformer(shape, value_bytes, quantized_bytes, fused)
        token_bytes = _token_bytes(shape, value_bytes, quantized_bytes, fused)
        if fused:
            text_encoder = replace(text_encoder, recorded_bytes=CAPTION_TOKENS * _text_token_bytes(shape, value_bytes))
            # The embedding, the stack, and the captions of both branches have graphs of their own.
            transformer = replace(transformer, recorded_bytes=2 * (GRAPH_TOKENS + CAPTION_TOKENS) * token_bytes)
        vae = PartSizes(0, 0, _autoencoder(shape) * value_bytes)
        return cls(shape, value_bytes, text_encoder, transformer, vae, token_bytes)

    def encoding_bytes(self, picture: Picture) -> int:
        """What activations take while the text encoder runs."""
        return picture.caption_tokens * _text_token_bytes(self.shape, self.value_bytes)

    def denoising_bytes(self, picture: Picture) -> int:
        """What activations, latents and the step cache take while the transformer runs."""
        shape, tokens = self.shape, picture.tokens(self.shape)
        rows = 1 + picture.guided
        stream = tokens * shape.dim * self.value_bytes  # of one row
        tables = 2 * tokens * shape.head_dim * 4
        activations = rows * (tokens * self.token_bytes + tables)
        # A branch remembers the first layers' change and up to three terms of the others'; a step holds the stream as
        # it was before the first layers and before the others, and the change.
        remembered = stream * rows * (4 * picture.num_images + 3) if picture.step_cache else 0
        return activations + remembered + 4 * _latent_bytes(shape, picture) * picture.num_images

    def decoding_bytes(self, picture: Picture, how: str) -> int:
        """What activations, latents and decoded images take while the VAE decodes in one of the `DECODINGS`."""
        decoded = 2 * picture.num_images * picture.pixels * self.shape.image_channels
        latents = 2 * _latent_bytes(self.shape, picture) * picture.num_images
        return _decoder_bytes(self, picture, how) + decoded + latents

    def banked_bytes(self, picture: Picture) -> int:
        """What moves between GPU and host memory while it decodes by way of that: each is written once, read twice."""
        shape = self.shape
        tensors = sum(
            count * (2 * shape.layers_per_block + 3) / 4**level for level, count in enumerate(shape.block_channels)
        )
        return picture.pixels * int(3 * tensors * self.value_bytes)


def _transformer(shape: Shape, value: int, quantized: int | None, fused: bool) -> PartSizes:
    dim, hidden, time = shape.dim, int(shape.dim / 3 * 8), min(shape.dim, 256)
    matrices = {(dim, dim): 4, (hidden, dim): 2, (dim, hidden): 1}  # [out, in] of a block, and how many
    norms = 4 * dim * value
    head_norms = 2 * shape.head_dim * value
    modulation, bias = time * 4 * dim * value, 4 * dim * value
    large, plain = _matrix_bytes(matrices, value, quantized), _matrix_bytes(matrices, value, None)
    # Fused, all blocks' modulation is one product, which stays, and the norms of heads are one tensor of two rows.
    layer = large + (head_norms if fused else modulation)
    beside = norms + bias + (modulation if fused else head_norms)
    rest = shape.num_refiner_layers * (layer + beside + plain + norms + head_norms)  # noise and context refiners
    numbers = shape.caption_dim + shape.caption_dim * dim + dim + 2 * dim  # captions, and the two pad tokens
    numbers += shape.token_values * dim + dim
    numbers += 256 * 1024 + 1024 + 1024 * time + time  # the timestep's embedding
    numbers += time * dim + dim + dim * shape.token_values + shape.token_values  # the final layer
    return PartSizes(shape.num_layers, layer, shape.num_layers * beside + rest + numbers * value)


def _text_encoder(shape: Shape, value: int, quantized: int | None) -> PartSizes:
    hidden, queries, keys, inner = shape.text_hidden, shape.text_queries, shape.text_keys, shape.text_intermediate
    matrices = {(queries, hidden): 1, (keys, hidden): 2, (hidden, queries): 1, (inner, hidden): 2, (hidden, inner): 1}
    layer = _matrix_bytes(matrices, value, quantized)
    norms = (2 * hidden + 2 * shape.text_head_dim) * value
    return PartSizes(shape.text_layers, layer, shape.text_layers * norms, shape.vocab_size * hidden * value)


def _matrix_bytes(matrices: Mapping[tuple[int, int], int], value: int, quantized: int | None) -> int:
    """Of matrices `[out, in]`, so many each; in a number format each row has a float32 scale."""
    if quantized is None:
        return sum(rows * columns * count * value for (rows, columns), count in matrices.items())
    return sum((rows * columns * quantized + 4 * rows) * count for (rows, columns), count in matrices.items())


def _autoencoder(shape: Shape) -> int:
    """How many numbers encoder and decoder have."""
    channels, latent, image = shape.block_channels, shape.latent_channels, shape.image_channels
    levels = len(channels)

    def convolution(before: int, after: int, side: int = 3) -> int:
        return before * after * side * side + after

    def resnet(before: int, after: int) -> int:
        shortcut = 0 if before == after else convolution(before, after, 1)
        return 2 * before + convolution(before, after) + 2 * after + convolution(after, after) + shortcut

    def level(before: int, after: int, layers: int) -> int:
        return resnet(before, after) + (layers - 1) * resnet(after, after)

    top = channels[-1]
    middle = 2 * resnet(top, top) + 2 * top + 4 * (top * top + top)
    encoder = convolution(image, channels[0]) + middle + 2 * top + convolution(top, 2 * latent)
    decoder = convolution(latent, top) + middle + 2 * channels[0] + convolution(channels[0], image)
    for i, (before, after) in enumerate(zip(channels[:1] + channels, channels, strict=False)):
        encoder += level(before, after, shape.layers_per_block) + (convolution(after, after) if i < levels - 1 else 0)
    up = channels[::-1]
    for i, (before, after) in enumerate(zip(up[:1] + up, up, strict=False)):
        decoder += level(before, after, shape.layers_per_block + 1) + (
            convolution(after, after) if i < levels - 1 else 0
        )
    return encoder + decoder


def _text_token_bytes(shape: Shape, value: int) -> int:
    """What the text encoder's activations take for a token."""
    return (6 * shape.text_hidden + 4 * shape.text_intermediate + 4 * shape.text_queries) * value


def _token_bytes(shape: Shape, value: int, quantized: int | None, fused: bool) -> int:
    """What a token takes of a row while a block's SwiGLU is computed, which is when it takes most.

    Fused: the stream, the branch, two normed streams (the block's own and the one that its caller holds), both
    projections and their product. The reference holds more of each.
    """
    row, hidden = shape.dim * value, int(shape.dim / 3 * 8) * value
    if not fused:
        return 6 * row + 4 * hidden
    normed, product = (row, hidden) if quantized is None else (row * quantized // value + 4, hidden // value + 4)
    return 2 * row + 2 * normed + 2 * hidden + product


def _decoder_bytes(sizes: Sizes, picture: Picture, how: str) -> int:
    """Activations of the decoder for one image.

    Most is taken at the full size, by the last level's residual blocks: the level's input, which its caller holds, and
    four tensors of the last level's channels. In bands it is the first of these blocks: its input, and two of them.
    """
    shape, value = sizes.shape, sizes.value_bytes
    last, *others = shape.block_channels
    before = others[0] if others else last
    whole = picture.pixels * value * (before + 4 * last)
    attended = picture.pixels // shape.downscale**2  # pixels that the middle attention sees
    # Scores and weights in float32; of all pixels the input, normed, as queries, keys and values, and attended.
    attention = min(ATTENTION_ROWS, attended) * attended * 8 + 6 * value * shape.block_channels[-1] * attended
    if how == "whole":
        return max(whole, attention)
    copies = 2 if value == 2 else 5  # of a band: normed, and convolved; the reference norms in steps
    band = copies * value * BAND_VALUES[value] + 2**24
    return max(attention, band + (picture.pixels * value * (before + 2 * last) if how == "bands" else 0))


def _latent_bytes(shape: Shape, picture: Picture) -> int:
    return picture.pixels // shape.downscale**2 * shape.latent_channels * 4


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
