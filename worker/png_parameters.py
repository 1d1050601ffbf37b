"""What an image was made from, as its PNG and the job's `job.json` tell it."""

from typing import Any

from jobs import __version__
from jobs.spec import JobInput


def image_parameters(job_input: JobInput, model: str, index: int) -> dict[str, Any]:
    """Return the parameters that draw image `index` of a job again: its own seed, not the job's."""
    seed = (job_input.seed or 0) + index
    return {**job_input.picture(), "seed": seed, "model": model, "version": f"zimage-service {__version__}"}
