"""What an image was made from, as its PNG and the job's `job.json` tell it."""

from typing import Any

from jobs import __version__
from jobs.spec import JobInput


def image_parameters(job_input: JobInput, model: str, index: int, steps_skipped: float) -> dict[str, Any]:
    """Return the parameters that draw image `index` of a job again: with its own seed; and what it skipped."""
    seed = (job_input.seed or 0) + index
    drawn = {"seed": seed, "steps_skipped": steps_skipped, "model": model, "version": f"zimage-service {__version__}"}
    return {**job_input.picture(), **drawn}
