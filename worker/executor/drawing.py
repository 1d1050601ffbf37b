"""Draws a job's images on the GPU thread: tells the steps, heeds cancel and deadline, makes do with little memory."""

import torch

from pipeline import Generation, ZImagePipeline
from worker.executor.thread import GpuThread
from worker.held import HeldJob
from worker.progress import ProgressReporter


class Artist:
    """Draws jobs, one at a time; called from several task threads at once.

    Args:
        pipeline: warm.
        gpu: the thread that may touch it.
        progress: tells Redis, and hears from it whether to go on.
    """

    def __init__(self, pipeline: ZImagePipeline, gpu: GpuThread, progress: ProgressReporter) -> None:
        self._pipeline = pipeline
        self._gpu = gpu
        self._progress = progress

    def draw(self, held: HeldJob) -> Generation:
        """Wait for the device and draw the job's images.

        Raises:
            StopJobError: there is no use in going on.
            torch.OutOfMemoryError: not even one image at a time fits into the device's memory.
            Exception: whatever else the pipeline raises.
        """

        def on_device() -> Generation:
            held.drawing = True
            try:
                return self._draw(held)
            finally:
                held.drawing = False

        job = held.claim.job
        return self._gpu.draw(job.owner, job.input.cost, on_device, while_waiting=lambda: self._report(held, 0))

    def _draw(self, held: HeldJob) -> Generation:
        asked = held.claim.job.input
        first_seed = asked.seed or 0
        try:
            return self._generate(held, first_seed, asked.num_images)
        except torch.OutOfMemoryError:
            pass  # and on outside of this block: the exception keeps the failed call's tensors alive
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return _together([self._generate(held, first_seed + index, 1) for index in range(asked.num_images)])

    def _generate(self, held: HeldJob, seed: int, num_images: int) -> Generation:
        asked = held.claim.job.input

        def on_step(step: int, _total: int) -> None:
            self._gpu.count_busy()
            self._report(held, step)

        self._report(held, 0)
        return self._pipeline.generate(
            asked.prompt,
            negative_prompt=asked.negative_prompt,
            height=asked.height,
            width=asked.width,
            num_inference_steps=asked.num_inference_steps,
            guidance_scale=asked.guidance_scale,
            seed=seed,
            num_images=num_images,
            on_step=on_step,
        )

    def _report(self, held: HeldJob, step: int) -> None:
        self._progress.report(held, step)
        held.check()


def _together(parts: list[Generation]) -> Generation:
    """Return images that were drawn one at a time as if they had been drawn at once."""
    first = parts[0]
    warnings = [*first.warnings, "there was too little memory for all images at once: drawn one at a time"]
    return Generation(
        images=torch.cat([part.images for part in parts]),
        timings={stage: sum(part.timings[stage] for part in parts) for stage in first.timings},
        peak_vram_bytes=max(part.peak_vram_bytes for part in parts),
        warnings=warnings if len(parts) > 1 else first.warnings,
        prompts=first.prompts,
        prompts_reused=first.prompts_reused,
    )


def breaks_device(error: BaseException) -> bool:
    """Tell whether an error leaves the process unable to use its GPU: CUDA errors other than memory are sticky."""
    if isinstance(error, torch.OutOfMemoryError):
        return False
    return isinstance(error, torch.AcceleratorError) or (isinstance(error, RuntimeError) and "CUDA error" in str(error))
