"""Where a queued job stands and when it starts: its ETA.

Redis counts what the jobs before it cost and what is left of those running, and adds up the rates that workers were
measured to draw at (`read.lua`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from jobs.model_card import ModelCard


@dataclass(frozen=True)
class Place:
    """Where a queued job stands: 1 is the next to be claimed; seconds until it starts, None while no rate is known."""

    position: int
    eta_seconds: float | None


@dataclass(frozen=True)
class Ahead:
    """What stands before a queued job."""

    jobs: int
    cost: float  # of them, and what is left of those running
    rate: float  # cost per second: of the live workers, or of the one heard last
    workers: int  # alive

    @classmethod
    def from_row(cls, row: Sequence[str]) -> "Ahead":
        """Read what `read.lua` returns behind the record."""
        jobs, cost, rate, workers = row
        return cls(int(jobs), float(cost), float(rate), int(workers))

    def place(self, card: ModelCard | None) -> Place:
        """Return the job's place; where no worker is alive, one like the last has to load its model first."""
        if self.rate <= 0:
            return Place(self.jobs + 1, None)
        loading = card.load_seconds if card and not self.workers else 0.0
        return Place(self.jobs + 1, self.cost / self.rate + loading)
