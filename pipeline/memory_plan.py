"""Which weights stay on the GPU, come and go, so that drawing fits a budget of its memory.

What a plan predicts is what `torch.cuda.max_memory_allocated` tells; the budget is what PyTorch may take of the card
(`set_per_process_memory_fraction`). CUDA's own context, 0.3 to 0.6 GB, lies beside it. Sizes are those of
`pipeline.memory_sizes`: a plan is made before anything is loaded, and without torch.

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

from pipeline.memory_sizes import DECODINGS, PartSizes, Picture, Sizes

PARTS = ("text_encoder", "transformer", "vae")
RESIDENT, WHOLE, LAYERS = RESIDENCIES = ("resident", "whole", "layers")

MIB = 2**20
RING = 2  # buffers that streamed layers take turns in: one computes, the next is fetched
BANDWIDTH = 55e9  # bytes a second from pinned host memory over PCIe 5 × 16, measured
MOST_PIXELS = 2**26  # of a picture that anybody asks for
MANY_IMAGES = 10  # that anybody asks for at once
USUAL = Picture(guided=True, step_cache=True)  # what a plan has to be able to draw, where nobody says otherwise
LARGE = Picture(1536, 1536)  # what it draws as well, where any plan does

# cuBLAS' workspaces, what recorded graphs read and write, rotary tables: measured on an H100 and an H200
# (bench/results).
FIXED_BYTES = 88 * MIB
# What PyTorch's allocator holds beside tensors, as pieces of segments that nothing fits in, and the features of prompts
# that are remembered, 168 MiB at most. Of the budget.
LEAST_RESERVE, RESERVE = 512 * MIB, 0.045
# A layer's weights take longer to come than it takes to compute, for so many tokens: on an H200, the quickest card, 2.3
# times in bfloat16 and 1.7 times in fp8, computed from its times in bench/results. So where no more than this share of
# the layers is streamed, nothing waits.
HIDDEN, HIDDEN_TOKENS = 0.4, 4160
LAUNCH_SECONDS = 0.04  # that the text encoder takes longer where it is not replayed from CUDA graphs, on an H200
BAND_SECONDS = 30e-9  # that a pixel takes longer to decode in bands: an estimate


class BudgetError(ValueError):
    """No plan fits the budget; `least_bytes` is the smallest one that one would."""

    def __init__(self, message: str, least_bytes: int) -> None:
        super().__init__(message)
        self.least_bytes = least_bytes


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
    def recorded_bytes(self) -> int:
        """What PyTorch keeps for recorded graphs at most: tensors have no use of it."""
        return sum(self._of(part).recorded_bytes for part in PARTS if self.residency[part] == RESIDENT)

    @property
    def usable_bytes(self) -> float:
        """What tensors may take of the budget; infinite without one."""
        if self.budget_bytes is None:
            return math.inf
        budget = self.budget_bytes
        return min(budget - LEAST_RESERVE, int(budget * (1 - RESERVE))) - self.recorded_bytes

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
        # The decoder sees one image; were the others' pixels not counted, several of a size might not fit, and of a
        # larger one, which is decoded in less memory, they would.
        many = replace(picture, num_images=MANY_IMAGES)
        fits = (how for how in DECODINGS if self._fits(self._decode_bytes(many, how)))
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
            f" memory, and there is {_gib(self.usable_bytes)}: "
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
        """Weights that come for one evaluation of the transformer; of those that fit into the ring none."""
        streamed = self.streamed["transformer"]
        return streamed * self.sizes.transformer.layer_bytes if streamed > RING else 0

    def bytes_per_picture(self, picture: Picture | None = None) -> int:
        """What comes and goes for a picture whose prompt was drawn before; None: of the plan's size, not guided."""
        picture = picture or self._plain
        transformer = self.bytes_per_step() * self.steps
        if not transformer:
            transformer = self.streamed["transformer"] * self.sizes.transformer.layer_bytes
        return transformer + self._beside_streaming(picture)

    def bytes_per_prompt(self) -> int:
        """What comes for a prompt that was not drawn before."""
        text = self.sizes.text_encoder
        if self.text_encoder == WHOLE:
            return text.total - text.host_bytes
        return self.streamed["text_encoder"] * text.layer_bytes

    def seconds_per_picture(self, picture: Picture | None = None) -> float:
        """By how much a picture takes longer than with resident weights, as `bytes_per_picture`: an estimate.

        Of the layers that are streamed, as many cost nothing as come while others compute.
        """
        picture = picture or self._plain
        layers = self.sizes.transformer.layers
        hidden = HIDDEN * layers * picture.tokens(self.sizes.shape) * (1 + picture.guided) / HIDDEN_TOKENS
        beside = self._beside_streaming(picture)
        waits = max(0.0, 1 - hidden / max(1, self.streamed["transformer"]))
        moved = (self.bytes_per_picture(picture) - beside) * waits + beside
        return moved / self.bandwidth + self._band_seconds(picture)

    def seconds_per_prompt(self) -> float:
        """By how much a prompt that was not drawn before takes longer: an estimate."""
        launching = 0.0 if self.text_encoder == RESIDENT else LAUNCH_SECONDS
        return max(self.bytes_per_prompt() / self.bandwidth, launching)

    @property
    def most_seconds(self) -> float:
        """By how much a picture of a new prompt would take longer if nothing came while something computes."""
        moved = self.bytes_per_picture(self.picture) / self.bandwidth + self.seconds_per_prompt()
        return moved + self._band_seconds(self.picture)

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

    @property
    def _plain(self) -> Picture:
        return replace(self.picture, guided=False, step_cache=False)

    def _beside_streaming(self, picture: Picture) -> int:
        """What comes and goes for a picture as a whole."""
        moved = sum(self._of(part).total for part in ("transformer", "vae") if self.residency[part] == WHOLE)
        return moved + (self.sizes.banked_bytes(picture) if self.decoding(picture) == "host" else 0)

    def _band_seconds(self, picture: Picture) -> float:
        return 0.0 if self.decoding(picture) == "whole" else picture.pixels * BAND_SECONDS

    def _of(self, part: str) -> PartSizes:
        sizes: PartSizes = getattr(self.sizes, part)
        return sizes

    def _fits(self, peak: int) -> bool:
        return peak <= self.usable_bytes

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
        return FIXED_BYTES + self._weights("text_encoder") + self.sizes.encoding_bytes(self.picture)

    def _denoise_bytes(self, picture: Picture) -> int:
        return FIXED_BYTES + self._weights("transformer") + self.sizes.denoising_bytes(picture)

    def _decode_bytes(self, picture: Picture, how: str) -> int:
        return FIXED_BYTES + self._weights("vae") + self.sizes.decoding_bytes(picture, how)


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
    settled: dict[str, Any] = dict(residency or {})
    blank = Plan(sizes, budget_bytes=budget_bytes, picture=picture, steps=steps, bandwidth=bandwidth)
    if budget_bytes is None:
        return replace(blank, **settled)
    plans = [replace(blank, **choice) for choice in _choices(sizes, settled)]
    for pictures in ((picture, LARGE), (picture,)):
        fitting = [best for made in plans if (best := _filled(made, *pictures)) is not None]
        if fitting:
            return min(fitting, key=lambda made: made.most_seconds)
    least = least_budget(sizes, residency=residency, picture=picture)
    raise BudgetError(
        f"a budget of {_gib(budget_bytes)} of GPU memory is too little: the least for a picture of"
        f" {picture.width}×{picture.height} is {_gib(least)}",
        least,
    )


def plan_for_free(sizes: Sizes, free_bytes: int) -> Plan:
    """The plan where nobody set a budget: all weights stay and nothing is bounded, unless there is no room for that.

    Args:
        sizes: of the model.
        free_bytes: of the card; the budget, where they are too few for all weights.

    Raises:
        BudgetError: nothing fits.
    """
    resident = plan(sizes, None)
    roomy = replace(resident, budget_bytes=free_bytes).fits()
    return resident if roomy else plan(sizes, free_bytes)


def least_budget(sizes: Sizes, *, residency: Mapping[str, str] | None = None, picture: Picture = USUAL) -> int:
    """The smallest budget that there is a plan for, in bytes; arguments as of `plan`."""
    smallest = Plan(sizes, budget_bytes=1, picture=picture)  # of all ways to decode it takes the least memory
    plans = [replace(smallest, **choice) for choice in _choices(sizes, residency or {})]
    taken = min(made.peak_bytes() + made.recorded_bytes for made in plans)
    return max(taken + LEAST_RESERVE, math.ceil(taken / (1 - RESERVE)) + 1)


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


def _filled(made: Plan, *pictures: Picture) -> Plan | None:
    """The plan with as many of the transformer's layers resident as fit; None: the pictures do not fit with none.

    A way to decode that takes less memory may make room for more of them than it costs.
    """
    most = made.sizes.transformer.layers if made.transformer == LAYERS else 0
    counts = {most}
    for picture in pictures:
        others = max(made._text_bytes(), made._denoise_bytes(picture))
        for how in DECODINGS:
            room = int(made.usable_bytes) - max(others, made._decode_bytes(picture, how))
            counts.add(min(most, max(0, room // made.sizes.transformer.layer_bytes)))
    filled = [replace(made, transformer_layers_resident=stay) for stay in sorted(counts, reverse=True)]
    fitting = [one for one in filled if all(one.fits(picture) for picture in pictures)]
    return min(fitting, key=lambda one: one.most_seconds, default=None)


def _gib(count: float) -> str:
    return f"{count / 2**30:.2f} GiB"
