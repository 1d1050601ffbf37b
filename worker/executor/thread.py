"""The executor of one device: all work on it, loading and warm-up included, runs on one thread, in order.

Task threads hand it a job and wait. So the text encoding, denoising and decoding of the next job run while the last job
is compressed and uploaded.
"""

import contextvars
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress

import torch

from jobs.model_card import size_limits
from jobs.record import Job
from pipeline import Drawing, Generation, ZImagePipeline
from pipeline.timeline import Stages
from worker.executor.busy import BusySeconds
from worker.executor.executor import Loaded
from worker.executor.rate import Rate

LOOK_SECONDS = 0.25  # how often a waiting job is looked after
WARM_UP_STEPS = 2

OnStages = Callable[[Mapping[str, float]], None]


class DeviceThread:
    """Owns a device and the pipeline on it.

    Args:
        load: returns the pipeline and its model's name; called on the device's thread, like all that uses it.

    Raises:
        Exception: whatever `load` raises.
    """

    def __init__(self, load: Callable[[], tuple[ZImagePipeline, str]]) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="gpu")
        self.rate = Rate()  # measured from the warm-up on
        self._drawing = False
        self._signs_of_life = 0
        self._pipeline, model = self._thread.submit(load).result()
        self.loaded = _loaded(self._pipeline, model)
        self._thread.submit(self._warm_up).result()

    def draw(
        self, job: Job, waiting: Callable[[], None], on_step: Callable[[int], None], on_stages: OnStages
    ) -> Generation:
        """Wait for the device and draw the job's images, as `Executor` says; one at a time where memory is short."""
        asked = time.monotonic()

        def on_device() -> Generation:
            with self.rate.measured(job.input.cost, asked):
                return self._draw(job, on_step, on_stages)

        # In the caller's context, so that what is logged there is told to be about this job.
        drawing = self._thread.submit(contextvars.copy_context().run, on_device)
        while not wait([drawing], LOOK_SECONDS).done:
            if not drawing.running():
                try:
                    waiting()
                except BaseException:
                    if drawing.cancel():
                        raise
        return drawing.result()

    def sign_of_life(self) -> int | None:
        """Return a number that changes at each step of the job on the device; None while there is no job on it."""
        return self._signs_of_life if self._drawing else None

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()

    def _warm_up(self) -> None:
        """Draw twice, the second time for a first measurement of the rate."""
        side = min(1024, size_limits(self.loaded.model).min_size * 4)

        def draw() -> None:
            self._pipeline("warm-up", height=side, width=side, num_inference_steps=WARM_UP_STEPS)

        draw()
        with self.rate.measured(side * side * WARM_UP_STEPS, time.monotonic()):
            draw()

    def _draw(self, job: Job, on_step: Callable[[int], None], on_stages: OnStages) -> Generation:
        busy = BusySeconds(job.owner)

        def alive(step: int) -> None:
            self._signs_of_life += 1
            busy.count()
            on_step(step)

        self._drawing = True
        try:
            return self._draw_within_memory(job, alive, on_stages)
        finally:
            self._drawing = False
            busy.count()

    def _draw_within_memory(self, job: Job, on_step: Callable[[int], None], on_stages: OnStages) -> Generation:
        first_seed, num_images = job.input.seed or 0, job.input.num_images

        def generate(seed: int, count: int) -> Generation:
            return self._generate(job, seed, count, on_step, on_stages)

        try:
            return generate(first_seed, num_images)
        except torch.OutOfMemoryError:
            pass  # and on outside of this block: the exception keeps the failed call's tensors alive
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return _together([generate(first_seed + index, 1) for index in range(num_images)])

    def _generate(
        self, job: Job, seed: int, num_images: int, on_step: Callable[[int], None], on_stages: OnStages
    ) -> Generation:
        on_step(0)
        drawing = Drawing(
            **job.input.picture(), seed=seed, num_images=num_images, on_step=lambda step, _total: on_step(step)
        )
        stages = Stages(self._pipeline.device)
        try:
            return self._pipeline.generate(drawing, stages)
        finally:
            with suppress(RuntimeError):  # of a device that is broken: what broke it tells more
                on_stages(stages.seconds())


def _loaded(pipeline: ZImagePipeline, model: str) -> Loaded:
    device = pipeline.device
    return Loaded(
        model=model,
        device=str(device),
        precision=str(next(pipeline.transformer.parameters()).dtype).removeprefix("torch."),
        quantization=pipeline.quantization,
        vram_bytes=torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 0,
    )


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
