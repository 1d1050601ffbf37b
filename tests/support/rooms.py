"""Workers' memory, as their cards tell of it."""

from jobs.model_card import ModelCard
from jobs.room import Room

CARD = ModelCard(name="tiny", min_size=64, max_size=1024, default_size=256, precision="float32", load_seconds=7.0)


def room(*sides: int) -> Room:
    """Room for squares of these sides in jobs of 1, 2, … images; half of the pixels with guidance or a step cache."""
    plain = tuple(side * side for side in sides)
    half = tuple(pixels // 2 for pixels in plain)
    return Room(most_pixels=(plain, half, half, tuple(pixels // 4 for pixels in plain)))


def card(*sides: int) -> ModelCard:
    """A worker's that has such room; without sides room for all."""
    return CARD.model_copy(update={"room": room(*sides) if sides else None})
