"""How much GPU memory drawing takes, and which weights stay, come and go so that it fits a budget.

All of it is arithmetic on the shapes of the networks, so it can be done before anything is loaded, for a card that is
not there, and without torch. What it predicts is what `torch.cuda.max_memory_allocated` tells; the budget is what
PyTorch may take of the card (`set_per_process_memory_fraction`). CUDA's own context, 0.3 to 0.6 GB, lies beside it.

Each part (text encoder, transformer, VAE) has a residency:

- `resident`: its weights are on the GPU all the time.
- `whole`: they come when its stage begins, and leave when it ends.
- `layers`: some of its layers stay, as many as fit; the others are streamed from pinned host memory through a ring of
  buffers, the next one being fetched while one computes.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

PARTS = ("text_encoder", "transformer", "vae")
RESIDENT, WHOLE, LAYERS = RESIDENCIES = ("resident", "whole", "layers")
# How the VAE decodes: the whole picture at once; in bands of rows between which activations lie on the GPU; the same,
# and they lie in host memory.
DECODINGS = ("whole", "bands", "host")

MIB = 2**20
RING = 2  # buffers that streamed layers take turns in: one computes, the next is fetched
BAND_VALUES = 2**23  # at most, in a band of rows that the decoder works on at a time
ATTENTION_BYTES = 64 * MIB  # that the scores of some queries take at most, where decoding is in bands
BANDWIDTH = 55e9  # bytes a second from pinned host memory over PCIe 5 × 16, measured
MOST_PIXELS = 2**26  # of a picture that anybody asks for

# cuBLAS' workspaces, the memory of recorded graphs, rotary tables: measured on an H100 and an H200 (bench/results).
FIXED_BYTES = 88 * MIB
# What PyTorch's allocator holds beside tensors: pieces of segments that nothing fits in. Of the budget.
LEAST_RESERVE, RESERVE = 256 * MIB, 0.04
# A layer's weights take longer to come than the layer takes to compute: on an H200, the quickest card, 2.3 times in
# bfloat16 and 1.7 times in fp8. So where no more than this share of them is streamed, nothing waits for them.
HIDDEN = 0.3
BAND_SECONDS = 5e-9  # that a pixel takes longer to decode in bands


class BudgetError(ValueError):
    """No plan fits the budget; `least_bytes` is the smallest one that one would."""

    def __init__(self, message: str, least_bytes: int) -> None:
        super().__init__(message)
        self.least_bytes = least_bytes


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
        return 2 ** (len(self.block_channels) - 1)


TURBO = Shape()


@dataclass(frozen=True)
class PartSizes:
    """Bytes of a part's weights."""

    layers: int  # how many can be streamed
    layer_bytes: int  # that one of them moves
    rest_bytes: int  # that stay on the GPU while the part is there
    host_bytes: int = 0  # that stay in host memory unless the part is resident: the table of token embeddings

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
        return cls(
            shape,
            value_bytes,
            _text_encoder(shape, value_bytes, text_quantized_bytes),
            _transformer(shape, value_bytes, quantized_bytes, fused),
            PartSizes(0, 0, _autoencoder(shape) * value_bytes),
            _token_bytes(shape, value_bytes, quantized_bytes, fused),
        )

    @property
    def resident_bytes(self) -> int:
        """All weights."""
        return self.text_encoder.total + self.transformer.total + self.vae.total


@dataclass(frozen=True)
class Picture:
    """What of a drawing decides how much memory it takes."""

    height: int = 1024
    width: int = 1024
    num_images: int = 1
    guided: bool = False
    step_cache: bool = False
    caption_tokens: int = 512

    @property
    def pixels(self) -> int:
        """Of one image."""
        return self.height * self.width

    def tokens(self, shape: Shape) -> int:
        """Of one row of the stream."""
        side = shape.downscale * shape.patch_size
        return _round_up((self.height // side) * (self.width // side), 32) + _round_up(self.caption_tokens, 32)


USUAL = Picture(guided=True, step_cache=True)  # what a plan has to be able to draw, where nobody says otherwise


@dataclass(frozen=True)
class Plan:
    """Which weights are where, and what that takes and costs."""

    sizes: Sizes = field(repr=False)
    text_encoder: str = RESIDENT
    transformer: str = RESIDENT
    vae: str = RESIDENT
    text_layers_resident: int = 0  # that stay on the GPU, where its residency is `layers`
    transformer_layers_resident: int = 0
    budget_bytes: int | None = None  # None: all memory that there is; nothing is refused then
    picture: Picture = USUAL  # that it was made for
    steps: int = 8
    bandwidth: float = BANDWIDTH  # bytes a second

    @property
    def residency(self) -> dict[str, str]:
        """By part."""
        return {part: getattr(self, part) for part in PARTS}

    @property
    def streamed(self) -> dict[str, int]:
        """How many layers of each part are fetched whenever it runs."""
        kept = {"text_encoder": self.text_layers_resident, "transformer": self.transformer_layers_resident}
        return {
            part: self._of(part).layers - count if self.residency[part] == LAYERS else 0 for part, count in kept.items()
        }

    @property
    def offloads(self) -> bool:
        """Whether any weights come and go."""
        return any(residency != RESIDENT for residency in self.residency.values())

    @property
    def pinned_bytes(self) -> int:
        """Host memory that is to be pinned: what comes from there."""
        streamed, moved = self.streamed, 0
        for part in PARTS:
            sizes = self._of(part)
            if self.residency[part] == WHOLE:
                moved += sizes.total - sizes.host_bytes
            elif self.residency[part] == LAYERS:
                moved += streamed[part] * sizes.layer_bytes
        return moved

    def layers(self, part: str) -> int:
        """How many layers a part has that can be streamed."""
        return self._of(part).layers

    def fits(self, picture: Picture | None = None) -> bool:
        """Whether a picture can be drawn within the budget; None: the one that it was made for."""
        return self._fits(self.peak_bytes(picture))

    def decoding(self, picture: Picture) -> str:
        """How a picture is decoded, one of `DECODINGS`: the quickest way that fits; the last, if none does."""
        one = replace(picture, num_images=1)  # which is what the decoder sees
        fits = (how for how in DECODINGS if self._fits(self._decode_bytes(one, how)))
        return next(fits, DECODINGS[-1])

    def peak_bytes(self, picture: Picture | None = None) -> int:
        """The most that tensors take at once while a picture is drawn; None: the one that it was made for."""
        picture = picture or self.picture
        decode = self._decode_bytes(picture, self.decoding(picture))
        return max(self._text_bytes(), self._denoise_bytes(picture), decode)

    def check(self, picture: Picture) -> None:
        """Refuse a picture that does not fit the budget.

        Raises:
            ValueError: the message names the largest of its kind that does.
        """
        if self.budget_bytes is None or self.fits(picture):
            return
        kind = ("with guidance " if picture.guided else "") + ("with a step cache " if picture.step_cache else "")
        count = f"{picture.num_images} images " if picture.num_images > 1 else ""
        largest = self.largest(picture)
        side = math.isqrt(largest) // 16 * 16
        raise ValueError(
            f"{count}{kind}of {picture.width}×{picture.height} pixels takes {_gib(self.peak_bytes(picture))} of GPU"
            f" memory, and there is {_gib(_usable(self.budget_bytes))}: "
            + (f"at most {largest:,} pixels can be drawn so, such as {side}×{side}" if side else "none can be drawn so")
        )

    def largest(self, picture: Picture | None = None) -> int:
        """How many pixels the largest picture of a picture's kind has, whatever its sides; None: of the plan's own."""
        picture = picture or self.picture
        unit = (self.sizes.shape.downscale * self.sizes.shape.patch_size) ** 2  # one token
        side = math.isqrt(unit)

        def drawable(tokens: int) -> bool:
            asked = replace(picture, height=side, width=side * tokens)
            return self.fits(asked)

        low, high = 0, MOST_PIXELS // unit
        if drawable(high):
            return high * unit
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if drawable(middle) else (low, middle)
        return low * unit

    def bytes_per_step(self) -> int:
        """Weights that come for one evaluation of the transformer."""
        return self.streamed["transformer"] * self.sizes.transformer.layer_bytes

    def bytes_per_picture(self, picture: Picture | None = None) -> int:
        """What comes and goes for a picture whose prompt was drawn before."""
        picture = picture or self.picture
        moved = self.bytes_per_step() * self.steps
        moved += sum(self._of(part).total for part in ("transformer", "vae") if self.residency[part] == WHOLE)
        if self.decoding(picture) == "host":
            moved += picture.pixels * _banked_bytes(self.sizes)
        return moved

    def bytes_per_prompt(self) -> int:
        """What comes for a prompt that was not drawn before."""
        text = self.sizes.text_encoder
        if self.text_encoder == WHOLE:
            return text.total - text.host_bytes
        return self.streamed["text_encoder"] * text.layer_bytes

    def seconds_per_picture(self, picture: Picture | None = None) -> float:
        """By how much a picture takes longer than with resident weights, its prompt drawn before."""
        picture = picture or self.picture
        sizes, decoding = self.sizes.transformer, self.decoding(picture)
        waited = max(0.0, self.streamed["transformer"] - HIDDEN * sizes.layers) * sizes.layer_bytes * self.steps
        waited += self.bytes_per_picture(picture) - self.bytes_per_step() * self.steps
        return waited / self.bandwidth + (0.0 if decoding == "whole" else picture.pixels * BAND_SECONDS)

    def seconds_per_prompt(self) -> float:
        """By how much a prompt that was not drawn before takes longer."""
        return self.bytes_per_prompt() / self.bandwidth

    def __str__(self) -> str:
        told = []
        for part in PARTS:
            streamed, layers = self.streamed.get(part, 0), self._of(part).layers
            stay = f" ({layers - streamed} of {layers} stay)" if self.residency[part] == LAYERS else ""
            told.append(f"{part}={self.residency[part]}{stay}")
        return (
            f"{', '.join(told)}; a picture of {self.picture.width}×{self.picture.height} takes "
            f"{_gib(self.peak_bytes())} at most, decoded {self.decoding(self.picture)}, and "
            f"{self.seconds_per_picture() * 1000:.0f} ms more than with all weights resident, a new prompt "
            f"{self.seconds_per_prompt() * 1000:.0f} ms, at {self.bandwidth / 1e9:.0f} GB/s from pinned memory "
            f"({_gib(self.pinned_bytes)})"
        )

    def _of(self, part: str) -> PartSizes:
        sizes: PartSizes = getattr(self.sizes, part)
        return sizes

    def _fits(self, peak: int) -> bool:
        return self.budget_bytes is None or peak <= _usable(self.budget_bytes)

    def _weights(self, stage: str) -> int:
        """Weights on the GPU during the stage of a part."""
        total, streamed = 0, self.streamed
        for part in PARTS:
            sizes, residency = self._of(part), self.residency[part]
            if residency == RESIDENT:
                total += sizes.total
            elif residency == LAYERS:
                stay = sizes.layers - streamed[part]
                ring = min(RING, streamed[part]) if part == stage else 0
                total += sizes.rest_bytes + (stay + ring) * sizes.layer_bytes
            elif part == stage:
                total += sizes.total - sizes.host_bytes
        return total

    def _text_bytes(self) -> int:
        shape, tokens = self.sizes.shape, self.picture.caption_tokens
        values = 6 * shape.text_hidden + 4 * shape.text_intermediate + 4 * shape.text_queries
        return FIXED_BYTES + self._weights("text_encoder") + tokens * values * self.sizes.value_bytes

    def _denoise_bytes(self, picture: Picture) -> int:
        shape, tokens = self.sizes.shape, picture.tokens(self.sizes.shape)
        rows = 1 + picture.guided
        stream = tokens * shape.dim * self.sizes.value_bytes  # of one row
        tables = 2 * tokens * shape.head_dim * 4
        activations = rows * (tokens * self.sizes.token_bytes + tables)
        # A branch remembers the first layers' change and up to three terms of the others'; a step holds the stream as
        # it was before the first layers and before the others, and the change.
        remembered = stream * rows * (4 * picture.num_images + 3) if picture.step_cache else 0
        latents = 4 * _latent_bytes(shape, picture) * picture.num_images
        return FIXED_BYTES + self._weights("transformer") + activations + remembered + latents

    def _decode_bytes(self, picture: Picture, how: str) -> int:
        decoded = 2 * picture.num_images * picture.pixels * self.sizes.shape.image_channels
        latents = 2 * _latent_bytes(self.sizes.shape, picture) * picture.num_images
        activations = _decoder_bytes(self.sizes, picture, how)
        return FIXED_BYTES + self._weights("vae") + activations + decoded + latents


def plan(
    sizes: Sizes,
    budget_bytes: int | None,
    *,
    residency: Mapping[str, str] | None = None,
    picture: Picture = USUAL,
    steps: int = 8,
    bandwidth: float = BANDWIDTH,
) -> Plan:
    """Decide which weights stay, come and go.

    Args:
        sizes: of the model.
        budget_bytes: what PyTorch may take of the card; None: as much as it wants.
        residency: of the parts for which it is settled; the budget decides how many layers stay of one that is
            streamed, and without a budget none does.
        picture: what has to fit.
        steps: of the picture.
        bandwidth: from pinned host memory, bytes a second.

    Raises:
        BudgetError: nothing fits.
    """
    fixed = dict(residency or {})
    known = {"picture": picture, "steps": steps, "bandwidth": bandwidth, "budget_bytes": budget_bytes}
    if budget_bytes is None:
        return Plan(sizes, **fixed, **known)  # type: ignore[arg-type]
    plans = [Plan(sizes, **choice, **known) for choice in _choices(sizes, fixed)]
    fitting = [best for made in plans if (best := _filled(made)) is not None]
    if not fitting:
        least = _least_budget(min(replace(made, budget_bytes=1).peak_bytes() for made in plans))
        raise BudgetError(
            f"a budget of {_gib(budget_bytes)} of GPU memory is too little: the least for a picture of"
            f" {picture.width}×{picture.height} is {_gib(least)}",
            least,
        )
    return min(fitting, key=lambda made: (made.seconds_per_picture() + made.seconds_per_prompt(), _moved(made)))


def parse_budget(text: str) -> int:
    """Bytes, of such as `8GiB`, `8 GB`, `7500MiB`.

    Raises:
        ValueError: it is none such.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B\s*", text, re.IGNORECASE)
    value = 0
    if found:
        number, prefix, binary = found.groups()
        value = int(float(number) * (1024 if binary else 1000) ** " KMGT".index(prefix.upper() or " "))
    if value <= 0:
        raise ValueError(f"vram_budget is {text!r}, expected bytes with their unit, such as 8GiB or 7500MiB")
    return value


def parse_residency(text: str) -> dict[str, str]:
    """By part, of such as `transformer=layers,text_encoder=whole,vae=resident`; parts may be left out.

    Raises:
        ValueError: it is none such.
    """
    entries = [entry.partition("=") for entry in text.split(",")]
    return check_residency({part.strip(): residency.strip() for part, _, residency in entries})


def check_residency(residency: Mapping[str, str]) -> dict[str, str]:
    """Refuse parts and residencies that there are none of.

    Raises:
        ValueError: the message names it, and what was expected.
    """
    for part, chosen in residency.items():
        if part not in PARTS:
            raise ValueError(f"residency names {part!r}, expected {', '.join(PARTS)}")
        allowed = RESIDENCIES[:2] if part == "vae" else RESIDENCIES
        if chosen not in allowed:
            raise ValueError(f"residency of {part} is {chosen!r}, expected {', '.join(allowed)}")
    return dict(residency)


def _choices(sizes: Sizes, fixed: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """What a plan may be made of, but for the transformer's layers that stay.

    Left to itself it takes `whole` for the VAE alone, since streamed layers take less memory and no more time.
    """
    for vae in (fixed.get("vae"),) if "vae" in fixed else (RESIDENT, WHOLE):
        for transformer in (fixed.get("transformer"),) if "transformer" in fixed else (RESIDENT, LAYERS):
            for text in (fixed.get("text_encoder"),) if "text_encoder" in fixed else (RESIDENT, LAYERS):
                for stay in range(sizes.text_encoder.layers + 1) if text == LAYERS else (0,):
                    yield {"vae": vae, "transformer": transformer, "text_encoder": text, "text_layers_resident": stay}


def _filled(made: Plan) -> Plan | None:
    """The plan with as many of the transformer's layers resident as fit; None: it does not fit with none.

    A way to decode that takes less memory may make room for more of them than it costs.
    """
    most, usable = made.sizes.transformer.layers if made.transformer == LAYERS else 0, _usable(made.budget_bytes or 0)
    others = max(made._text_bytes(), made._denoise_bytes(made.picture))
    counts = {most}
    for how in DECODINGS:
        room = usable - max(others, made._decode_bytes(made.picture, how))
        counts.add(min(most, max(0, room // made.sizes.transformer.layer_bytes)))
    filled = [replace(made, transformer_layers_resident=stay) for stay in sorted(counts, reverse=True)]
    fitting = [one for one in filled if one.fits()]
    return min(fitting, key=lambda one: (one.seconds_per_picture(), _moved(one)), default=None)


def _moved(made: Plan) -> int:
    return made.bytes_per_picture() + made.bytes_per_prompt()


def _usable(budget: int) -> int:
    return min(budget - LEAST_RESERVE, int(budget * (1 - RESERVE)))


def _least_budget(peak: int) -> int:
    return max(peak + LEAST_RESERVE, math.ceil(peak / (1 - RESERVE)) + 1)


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
    if how == "whole":
        return max(whole, min(4096, attended) * attended * (8 + value))
    band = (4 + 4 * value) * BAND_VALUES
    kept = 3 * value * shape.block_channels[-1] * attended  # the attention's keys and values, and its input
    return band + max(ATTENTION_BYTES + kept, picture.pixels * value * (before + 2 * last) if how == "bands" else 0)


def _banked_bytes(sizes: Sizes) -> int:
    """What a pixel's activations move where they lie in host memory: each is written once and read twice."""
    channels = sizes.shape.block_channels
    tensors = sum(count * (2 * sizes.shape.layers_per_block + 3) / 4**level for level, count in enumerate(channels))
    return int(3 * tensors * sizes.value_bytes)


def _latent_bytes(shape: Shape, picture: Picture) -> int:
    return picture.pixels // shape.downscale**2 * shape.latent_channels * 4


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _gib(count: float) -> str:
    return f"{count / 2**30:.2f} GiB"
