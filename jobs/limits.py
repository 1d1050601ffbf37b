"""What one API key may ask of the service, and how much of it is its due."""

from pydantic import BaseModel, ConfigDict, Field


class Limits(BaseModel):
    """The limits of a key; without any of them, it is held back by the others' due alone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rate: int | None = Field(None, ge=1, description="submits per minute; null: any number")
    work: int | None = Field(
        None, ge=1, description="pixels × steps × images per minute, twice that with guidance; null: any number"
    )
    in_flight: int | None = Field(None, ge=1, description="jobs queued or running at once; null: any number")
    share: float = Field(
        0.5, gt=0, le=1, description="of the queue and of Redis' memory, which the key can fill when it is alone"
    )
    weight: float = Field(1.0, ge=0.01, le=100, description="of its jobs' turns among those of other keys")

    def share_used(self, taken: float, free: float) -> float:
        """Return how much of its share the key has taken; from 1 on, or where nothing is free, it gets no more.

        Args:
            taken: by the key.
            free: to all.
        """
        return taken / (self.share * (taken + max(free, 0))) if taken else 0.0


NEW_KEY = Limits()
NO_LIMITS = Limits(share=1)  # of a service without keys
