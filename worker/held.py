"""A job in this process's hands, from the claim to its end."""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Literal

from jobs.record import JobError
from jobs.store.worker import Claim, Verdict


class StopJobError(Exception):
    """There is no use in going on with a job; the argument says why."""

    def __init__(self, reason: Literal["cancel", "lost", "deadline"]) -> None:
        super().__init__(reason)
        self.reason = reason


class HeldJob:
    """A claimed job in this process.

    `verdict` is what was heard about it last, `drawing` is True while it is on the device, `uploading` once S3 may have
    images of it, `stages` are the seconds of what was done, in order, `error` is why it failed.
    """

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self.verdict: Verdict = "ok"
        self.drawing = False
        self.uploading = False
        self.stages: dict[str, float] = {}
        self.error: JobError | None = None
        self._claimed_at = time.monotonic()

    def since_claimed(self) -> float:
        """Return the seconds since the claim."""
        return time.monotonic() - self._claimed_at

    def age(self) -> float:
        """Return the seconds since the job was accepted.

        Redis' clock counts up to the claim and this process's from then on: no clock is compared with another.
        """
        job = self.claim.job
        before = ((job.started_at or job.created_at) - job.created_at).total_seconds()
        return before + self.since_claimed()

    def spent(self, stages: Mapping[str, float]) -> None:
        """Add seconds to those of the stages."""
        for name, seconds in stages.items():
            self.stages[name] = self.stages.get(name, 0.0) + seconds

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time within to the stage's, however it ends."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.spent({stage: time.monotonic() - start})

    def timings(self) -> dict[str, float]:
        """Return the timings that the job has if it ends now."""
        job = self.claim.job
        finished_at = job.created_at + timedelta(seconds=self.age())
        return job.model_copy(update={"stages": self.stages, "finished_at": finished_at}).timings

    def seconds_left(self) -> float:
        """Return the seconds until the job's `timeout_seconds` have passed."""
        timeout = self.claim.job.input.timeout_seconds
        return math.inf if timeout is None else timeout - self.age()

    def check(self) -> None:
        """Raise StopJobError when there is no use in going on."""
        if self.seconds_left() <= 0:
            raise StopJobError("deadline")
        if self.verdict != "ok":
            raise StopJobError(self.verdict)
