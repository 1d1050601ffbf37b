"""What the worker knows of whatever draws its jobs: one device's thread, or a group of ranks."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from jobs.record import Job
from pipeline import Generation
from pipeline.memory_plan import Plan
from worker.executor.rate import Rate


@dataclass(frozen=True)
class Loaded:
    """What an executor draws with."""

    model: str  # its name, as clients are told
    commit: str | None  # the hub's; None: it came from elsewhere
    device: str  # cpu, cuda or cuda:N
    precision: str  # of weights and activations
    quantization: str | None  # of the large matrices
    product: str | None  # by which these are multiplied
    vram_bytes: int  # of the device; 0 on a CPU
    plan: Plan | None = None  # for its memory; None: none was made, and all weights are there


class Listener(Protocol):
    """Who has a job drawn, and is told of it; what it raises gives the job up."""

    def waiting(self) -> None:
        """The device is not free yet; told again and again, on the caller's thread, until the job is on it."""

    def on_step(self, step: int) -> None:
        """So many steps are done: 0 once the job is on the device, and again where it begins anew."""

    def on_decode(self, image: int) -> None:
        """The device begins to decode this one of the job's images, counted from 1."""

    def on_stages(self, seconds: Mapping[str, float]) -> None:
        """A stage, maybe one that was stopped in its midst, took so long; again where the job begins anew."""


class Executor(Protocol):
    """Draws jobs one after the other; called from several task threads at once."""

    loaded: Loaded
    rate: Rate  # at which it draws

    def draw(self, job: Job, listener: Listener) -> Generation:
        """Wait for the device and draw the images of a claimed job.

        Raises:
            pipeline.faults.BrokenDeviceError: something failed, and now the device does nothing more.
            ValueError: the pipeline refuses the request.
            Exception: whatever else is raised by the pipeline, or by the listener; `fault_of` tells what it means for
                the device. For `Fault.MEMORY` images were tried one at a time already.
        """

    def sign_of_life(self) -> int | None:
        """Return a number that changes as the job on the device goes on; None while there is no job on it."""

    def close(self) -> None:
        """Give the device up, at the process's orderly end: no job is at hand any more."""
