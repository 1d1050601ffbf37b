"""Which pictures a worker's memory has room for, and what a client is told of those that none has room for."""

import math
from collections.abc import Sequence
from typing import NamedTuple, Self

from pydantic import BaseModel

from jobs.spec import SIDE_MULTIPLE, JobInput

KINDS = ((False, False), (True, False), (False, True), (True, True))  # with guidance, with a step cache


class Room(BaseModel):
    """The most pixels of a picture, for each of `KINDS` and for jobs of 1, 2, … images."""

    most_pixels: tuple[tuple[int, ...], ...]

    @classmethod
    def from_words(cls, words: str) -> Self:
        """Read what `words` returned."""
        pixels = tuple(map(int, words.split()))
        images = len(pixels) // len(KINDS)
        return cls(most_pixels=tuple(pixels[kind * images : (kind + 1) * images] for kind in range(len(KINDS))))

    def words(self) -> str:
        """Return it as `claim.lua` takes it."""
        return " ".join(str(most) for row in self.most_pixels for most in row)

    def most(self, job: JobInput, images: int) -> int:
        """Return the most pixels of a picture, if the job had so many images; 0: there is no room for any."""
        row = self.most_pixels[KINDS.index((job.guidance_scale > 0, job.step_cache != "off"))]
        return row[images - 1] if images <= len(row) else 0

    def has(self, job: JobInput) -> bool:
        """Tell whether there is room for a job."""
        return job.width * job.height <= self.most(job, job.num_images)


class Refusal(NamedTuple):
    """Why a job can't be drawn, and the field to change."""

    field: str
    told: str


def refusal(rooms: Sequence[Room], job: JobInput) -> Refusal | None:
    """Return why none of these workers has room for a job; None: one has, or none tells of any bounds."""
    if not rooms or any(room.has(job) for room in rooms):
        return None

    def most(images: int) -> int:
        return max(room.most(job, images) for room in rooms)

    fewer = [images for images in range(1, job.num_images) if job.width * job.height <= most(images)]
    if fewer:
        told = f"there is GPU memory for {fewer[-1]} images of this size at most: ask for fewer, or for smaller ones"
        return Refusal("num_images", told)
    kind = [*(["guidance"] if job.guidance_scale > 0 else []), *(["a step cache"] if job.step_cache != "off" else [])]
    side = math.isqrt(most(1)) // SIDE_MULTIPLE * SIDE_MULTIPLE
    pictures = f"pictures with {' and '.join(kind)}" if kind else "pictures"
    bound = f"{pictures} of at most {most(1):,} pixels, such as {side}×{side}"
    return Refusal(
        "width" if job.width >= job.height else "height", f"there is GPU memory for {bound}: ask for a smaller one"
    )
