"""What a worker serves, as it tells the others: the model's name, and which sizes it draws."""

import os
import re
from pathlib import Path

from pydantic import BaseModel

from jobs.room import Room
from jobs.step_cache import LAYERS

TINY = "tiny"  # the bundled model's name
TINY_FOLDER = Path(__file__).parents[1] / "pipeline" / "models" / TINY
TINY_SIZES = ((128, 128), (96, 128), (128, 96))  # width, height; what it draws at others, training/README.md says
TINY_LAYERS = 7
DEFAULT_SIZES = TINY_SIDE, USUAL_SIDE = 128, 1024  # pixels on a side, for whom names none

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class SizeLimits(BaseModel):
    """Smallest and largest side of an image, and the side that it has where a client names none; in pixels."""

    min_size: int
    max_size: int
    default_size: int = USUAL_SIDE  # cards of workers from before it was told have none

    def refusals(self, width: int, height: int) -> dict[str, str]:
        """Return what is wrong with `width` and `height`, each where it is."""
        told = f"the served model draws {self.min_size} to {self.max_size} pixels"
        sides = {"width": width, "height": height}
        return {side: told for side, pixels in sides.items() if not self.min_size <= pixels <= self.max_size}


class MemoryPlan(BaseModel):
    """Where a worker's weights are while they are not at work, and what that is expected to take and to cost."""

    residency: dict[str, str]  # by part: text_encoder, transformer, vae
    budget_bytes: int | None  # of GPU memory; None: all that is free
    peak_bytes: int  # that tensors take of it at once, for a picture of 1024×1024, whatever else is asked for
    seconds_per_picture: float  # that it takes longer than with all weights on the GPU
    seconds_per_prompt: float  # and a prompt that was not drawn before


class ModelCard(SizeLimits):
    """What a worker serves; published in Redis when it is ready."""

    name: str
    precision: str
    quantization: str | None = None  # "fp8"; cards of workers from before it was told have none
    product: str | None = None  # which of the format's products the worker's card does; as above
    commit: str | None = None  # of the hub, where it came from there; as above
    path: str | None = None  # the checkpoint's folder on the worker's machine; of one from a hub or a bucket none
    load_seconds: float
    plan: MemoryPlan | None = None  # cards of workers from before there were plans have none
    room: Room | None = None  # of the device's memory; None: for every picture that the model draws
    abilities: frozenset[str] = frozenset()  # what it can do that not every release's workers can; see `Trait.needs`


def served_name(model: str) -> str:
    """Return the name under which `ZIMAGE_MODEL` is served: a hub id as it is, a path's last part."""
    if model == TINY or os.path.realpath(model) == str(TINY_FOLDER.resolve()):
        return TINY
    if _HUB_ID.fullmatch(model) and not os.path.isdir(model):
        return model
    path = Path(os.path.abspath(model.removeprefix("s3://")))
    # The bundled model's name alone would tell clients that model's sizes.
    return path.name if path.name != TINY else f"{path.parent.name}/{TINY}"


def size_limits(model: str) -> SizeLimits:
    """Return the image sizes that the model of this name is made for."""
    if model == TINY:
        return SizeLimits(min_size=64, max_size=1024, default_size=TINY_SIDE)
    return SizeLimits(min_size=256, max_size=2048)


def layers(model: str) -> int:
    """Return how many layers the model of this name has."""
    return TINY_LAYERS if model == TINY else LAYERS


def size_warnings(model: str, width: int, height: int) -> list[str]:
    """Return what to tell of a picture's size, by the model's name."""
    if model == TINY and (width, height) not in TINY_SIZES:
        return ["the bundled model draws well at 128x128, 96x128 and 128x96 only: other sizes look worse or wrong"]
    return []
