"""The named points of a job's life in this worker."""

from collections.abc import Sequence

from jobs.record import ImageRecord, JobError
from pipeline import Generation
from worker.held import HeldJob


class Observer:
    """Is told of each point on the thread that is at work; one that does not matter to it does nothing.

    A job that is handed back may end twice: as the one who hands it back says, and as the one who does it says.
    """

    def claimed(self, held: HeldJob) -> None:
        """The job is this worker's."""

    def begun(self, held: HeldJob) -> None:
        """The device begins with it."""

    def drawn(self, held: HeldJob) -> None:
        """Its images have left the device."""

    def delivered(self, held: HeldJob, generation: Generation) -> None:
        """Its images are in S3."""

    def committed(self, held: HeldJob, images: Sequence[ImageRecord]) -> None:
        """It has succeeded, with these images."""

    def failed(self, held: HeldJob, error: JobError, exception: Exception) -> None:
        """The exception makes it fail with this error; what its client or the clock has stopped is not told here."""

    def ended(self, held: HeldJob, outcome: str) -> None:
        """The attempt is over; its outcome is the job's status, or `lost` or `refused` where it is another worker's."""
