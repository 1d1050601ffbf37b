"""Which settings suit a card and a goal, and what to expect of them."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from cli.configure.cards import Card
from cli.configure.estimates import PICTURE, Figure, images_per_second, link_bandwidth, peak, seconds, tiny_seconds
from cli.configure.forms import Deployment
from cli.gpus import GIB
from jobs.model_card import TINY, size_limits
from jobs.spec import MAX_IMAGES
from pipeline.memory_plan import Plan, least_budget, parse_budget, plan
from pipeline.memory_sizes import Picture, Sizes

Goal = Literal["latency", "throughput", "memory"]
GOALS: tuple[Goal, ...] = get_args(Goal)
MODEL = "Tongyi-MAI/Z-Image-Turbo"
SIZES = {"none": Sizes.of(), "fp8": Sizes.of(quantized_bytes=1, text_quantized_bytes=1)}
BESIDE = GIB  # that CUDA's context takes, and a desktop on the same card
MOST_SIDE = size_limits(MODEL).max_size
LARGEST = Picture(MOST_SIDE, MOST_SIDE, MAX_IMAGES, guided=True, step_cache=True)  # that a job may ask for


@dataclass(frozen=True)
class _Expected:
    figure: Figure | None
    unit: str


@dataclass(frozen=True)
class Choice:
    """What is to run, and what to expect of it."""

    deployment: Deployment
    seconds: Figure | None  # from a new prompt to pixels; None: of a card whose speed is unknown
    images_per_second: Figure | None  # of all workers together
    peak: Figure | None  # MiB; None: of a CPU
    remarks: list[str]


def on_cpu() -> Choice:
    """Return the bundled model on the CPU."""
    deployment = Deployment({"ZIMAGE_MODEL": TINY, "ZIMAGE_DEVICE": "cpu"}, workers=1, gpu=False)
    time = tiny_seconds()
    expected = {"prompt to pixels": _Expected(time, "s")}
    return Choice(deployment, time, None, None, ["The bundled model, at 128×128 and 8 steps:", *_told(expected)])


def choose(card: Card, gpus: int, goal: Goal) -> Choice:
    """Return what suits a number of cards.

    A worker a GPU is best for every goal, and what makes one picture quicker makes many quicker: latency and throughput
    choose the same.

    Raises:
        BudgetError: the card has too little memory.
    """
    quantization = "fp8" if card.has_fp8 else "none"
    made, budget = _planned(card, quantization, goal)
    settings = {"ZIMAGE_MODEL": MODEL, "ZIMAGE_DEVICE": "gpu", "ZIMAGE_QUANTIZATION": quantization}
    if budget is not None:
        settings["ZIMAGE_VRAM_BUDGET"] = budget
    time = seconds(card, quantization, made)
    rate = images_per_second(card, quantization, made, gpus)
    memory = peak(card, quantization, made)
    expected = {
        "new prompt to pixels": _Expected(time, "s"),
        "images in a second": _Expected(rate, "from all workers"),
        "peak of GPU memory": _Expected(memory, "MiB"),
    }
    remarks = [
        f"For {goal}: {gpus} × {card.name} of {card.vram / GIB:.4g} GiB, a worker each. At 1024×1024 and 8 steps:",
        *_told(expected),
        *_about_memory(made, budget),
        *_about_fp8(card),
    ]
    if goal != "memory":
        told = "Quicker still, with slightly different pictures: ZIMAGE_STEP_CACHE=quality or fast"
        remarks.append(f"{told} (docs/accelerations.md).")
    return Choice(Deployment(settings, gpus, gpu=True), time, rate, memory, remarks)


def _planned(card: Card, quantization: str, goal: Goal) -> tuple[Plan, str | None]:
    """Return where weights are, and the budget; None: none is needed, since all that a job may ask for fits."""
    sizes, bandwidth = SIZES[quantization], link_bandwidth(card)
    budget = _tenths(math.floor, max(card.vram - BESIDE, BESIDE))
    if goal == "memory":
        budget = min(budget, _tenths(math.ceil, least_budget(sizes)), key=parse_budget)
    made = plan(sizes, parse_budget(budget), bandwidth=bandwidth)
    if goal != "memory" and not made.offloads and made.largest(LARGEST) >= LARGEST.pixels:
        return made, None
    return made, budget


def _tenths(rounded: Callable[[float], int], size: float) -> str:
    return f"{rounded(size / GIB * 10) / 10:g}GiB"


def _told(expected: Mapping[str, _Expected]) -> list[str]:
    """Return a line for each figure, and one for each file that they come from."""
    figures = [one.figure for one in expected.values() if one.figure]
    sources = list(dict.fromkeys(figure.source for figure in figures if figure.source))
    lines = []
    for name, one in expected.items():
        if (figure := one.figure) is None:
            lines.append(f"    {name}: not known of this card")
            continue
        place = f" [{sources.index(figure.source) + 1}]" if figure.source else ""
        kind = f"estimated{place}, {figure.how}" if figure.how else f"measured{place}"
        lines.append(f"    {name}: {figure} {one.unit}, {kind}")
    return lines + [f"    [{number}] {source}" for number, source in enumerate(sources, 1)]


def _about_memory(made: Plan, budget: str | None) -> list[str]:
    if budget is None:
        return []
    side = math.isqrt(made.largest(PICTURE)) // 16 * 16
    larger = f"pictures up to {side}×{side}; larger ones are refused when they are submitted"
    told = [f"Within {budget} it draws {'all sizes' if side >= MOST_SIDE else larger}."]
    if made.offloads:
        told.append(f"The plan: {made}.")
    return told


def _about_fp8(card: Card) -> list[str]:
    if card.capability is None:
        return ["Not known to have fp8. Cards of compute capability 8.9 or newer have it: ZIMAGE_QUANTIZATION=fp8."]
    return [] if card.has_fp8 else ["This card has no fp8."]
