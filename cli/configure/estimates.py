"""Time and memory of a picture at 1024×1024: as measured, or scaled from what was measured.

A time is scaled from the H100's. Matrix products, attention and the VAE go by the card's bf16 TFLOP/s, all else by the
bandwidth of its memory. What weights that come and go add is predicted by `pipeline.memory_plan`, by the card's PCIe.
"""

from dataclasses import dataclass, replace

from cli.configure.cards import CARDS, PCIE_5, Card, Speed
from cli.configure.recorded import Source, measured
from pipeline.memory_plan import BANDWIDTH, Plan
from pipeline.memory_sizes import Picture

PICTURE = Picture(caption_tokens=64)  # the one that was measured: 64 tokens, no guidance
BASE = next(card for card in CARDS if card.name == "H100")
PIPELINE, PROFILE = "pipeline-h100.json", "profile-h100.json"
SERVICES = {"none": "service-h100.json", "fp8": "service-h100-fp8.json"}
# Where prompt → pixels and the peak of a card were measured: the file, and the keys around theirs.
CARDS_MEASURED = {BASE.name: (PIPELINE, ("sizes", "1024"), ()), "H200": ("turns-house-h200.json", ("1024",), ("this",))}
SCALED = "scaled by bf16 TFLOP/s and memory bandwidth in NVIDIA's data sheets"
PLANNED = "predicted by pipeline.memory_plan"


@dataclass(frozen=True)
class Figure:
    """A figure and where it comes from."""

    value: float
    source: Source | None  # None: nothing was measured, it is arithmetic
    how: str = ""  # it was estimated; "": as it was measured

    def __str__(self) -> str:
        """Its value: an estimate has two digits."""
        if self.value >= 1000:
            return f"{self.value:,.0f}"
        return f"{self.value:#.{2 if self.how else 3}g}".rstrip(".")


def seconds(card: Card, quantization: str, made: Plan) -> Figure | None:
    """Return how long a picture of a new prompt takes, from prompt to pixels; None: the card's speed is unknown."""
    resident, more = _resident_seconds(card, quantization), _added_seconds(made)
    if resident is None or not more:
        return resident
    how = ", ".join(filter(None, [resident.how, f"what comes and goes {PLANNED}"]))
    return replace(resident, value=resident.value + more, how=how)


def images_per_second(card: Card, quantization: str, made: Plan, gpus: int) -> Figure | None:
    """Return what that many workers draw together, accepted to PNG in S3; None: the card's speed is unknown."""
    ours, base = seconds(card, quantization, made), _resident_seconds(BASE, quantization)
    if ours is None or base is None:
        return None
    service = measured(SERVICES[quantization], "all_at_once", "images_per_second")
    how = "" if ours == base and gpus == 1 else "scaled by the time of a picture and the number of workers"
    return Figure(service.value * base.value / ours.value * gpus, service.source, how)


def peak(card: Card, quantization: str, made: Plan) -> Figure:
    """Return the most that PyTorch takes of a GPU, in MiB."""
    if card.name in CARDS_MEASURED and not _added_seconds(made):
        return _measured(card.name, quantization, "peak_mib")
    return Figure(made.peak_bytes(PICTURE) / 2**20, None, PLANNED)


def tiny_seconds() -> Figure:
    """Return how long the bundled model takes on two CPU cores, at 128×128."""
    found = measured("tiny-cpu.json", "none", "sizes", "128", "total_ms")
    return Figure(found.value / 1000, found.source)


def link_bandwidth(card: Card) -> float:
    """Return how many bytes a second come to a card from pinned memory: as on PCIe 5, less as its link is slower."""
    return BANDWIDTH * (card.speed.link / PCIE_5 if card.speed else 1)


def _added_seconds(made: Plan) -> float:
    return made.seconds_per_picture(PICTURE) + made.seconds_per_prompt()


def _resident_seconds(card: Card, quantization: str) -> Figure | None:
    if card.name in CARDS_MEASURED:
        found = _measured(card.name, quantization, "total_ms")
        return replace(found, value=found.value / 1000)
    if card.speed is None or BASE.speed is None:
        return None
    return _scaled(quantization, BASE.speed, card.speed)


def _scaled(quantization: str, base: Speed, speed: Speed) -> Figure:
    total, denoise, decode = (
        measured(PIPELINE, quantization, "sizes", "1024", f"{stage}_ms") for stage in ("total", "denoise", "decode")
    )
    products, attention, steps = (
        measured(PROFILE, quantization, "under load", kind).value for kind in ("matrix products", "attention", "all")
    )
    tensor = denoise.value * (products + attention) / steps + decode.value
    value = tensor * base.tflops / speed.tflops + (total.value - tensor) * base.bandwidth / speed.bandwidth
    return Figure(value / 1000, total.source, SCALED)


def _measured(name: str, quantization: str, figure: str) -> Figure:
    file, before, after = CARDS_MEASURED[name]
    found = measured(file, quantization, *before, figure, *after)
    return Figure(found.value, found.source)
