"""What the worker knows of whatever draws its jobs: one device's thread, or a group of ranks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from jobs.record import Job
from pipeline import Generation
from worker.executor.rate import Rate


@dataclass(frozen=True)
class Loaded:
    """What an executor draws with."""

    model: str  # its name, as clients are told
    device: str  # cpu, cuda or cuda:N
    precision: str  # of weights and activations
    quantization: str | None  # of the large matrices
    vram_bytes: int  # of the device; 0 on a CPU


class Executor(Protocol):
    """Draws jobs one after the other; called from several task threads at once."""

    loaded: Loaded
    rate: Rate  # at which it draws

    def draw(
        self,
        job: Job,
        waiting: Callable[[], None],
        on_step: Callable[[int], None],
        on_stages: Callable[[Mapping[str, float]], None],
    ) -> Generation:
        """Wait for the device and draw the job's images.

        Args:
            job: claimed.
            waiting: called again and again, on the caller's thread, until the job is on the device.
            on_step: called with the steps done: 0 once the job is on the device, and again where it begins anew.
                Raising from either of them gives the job up.
            on_stages: called with the seconds of each stage, also of one that was stopped in its midst; again where the
                job begins anew.

        Raises:
            torch.OutOfMemoryError: not even one image at a time fits into the device's memory.
            ValueError: the pipeline refuses the request.
            Exception: whatever else is raised by the pipeline, or by `waiting` and `on_step`.
        """

    def sign_of_life(self) -> int | None:
        """Return a number that changes at each step of the job on the device; None while there is no job on it."""

    def close(self) -> None:
        """Give the device up, at the process's orderly end: no job is at hand any more."""
