"""Counts jobs for Prometheus."""

from collections.abc import Sequence

from jobs.record import ImageRecord
from pipeline import Generation
from worker import metrics
from worker.held import HeldJob
from worker.observers.observer import Observer


class Prometheus(Observer):
    """Keeps the metrics of jobs."""

    def begun(self, held: HeldJob) -> None:
        """Observe the wait, in the queue and for the device."""
        metrics.queue_wait_seconds.observe(held.claim.job.timings["queue"] + held.stages["device_wait"])

    def delivered(self, held: HeldJob, generation: Generation) -> None:
        """Observe all stages."""
        for stage, spent in held.stages.items():
            metrics.stage_seconds.labels(stage).observe(spent)
        metrics.vram_peak_bytes.set(generation.peak_vram_bytes)
        metrics.prompts_total.labels("encoded").inc(generation.prompts - generation.prompts_reused)
        metrics.prompts_total.labels("reused").inc(generation.prompts_reused)
        skipped = sum(generation.steps_skipped)
        metrics.steps_total.labels("computed").inc(held.claim.job.input.total_steps - skipped)
        metrics.steps_total.labels("skipped").inc(skipped)

    def committed(self, held: HeldJob, images: Sequence[ImageRecord]) -> None:
        """Count the images."""
        job = held.claim.job
        metrics.images_total.labels(metrics.size_label(job.input.width, job.input.height)).inc(len(images))
        metrics.key_images_total.labels(job.owner).inc(len(images))
        metrics.key_pixels_total.labels(job.owner).inc(sum(image.width * image.height for image in images))

    def ended(self, held: HeldJob, outcome: str) -> None:
        """Count the attempt, and observe the whole time of a job that is over."""
        metrics.job_attempts_total.labels(outcome).inc()
        if outcome == "succeeded":
            metrics.stage_seconds.labels("other").observe(held.timings()["other"])
        if outcome in ("succeeded", "failed", "canceled"):
            metrics.job_seconds.labels(outcome).observe(held.age())
