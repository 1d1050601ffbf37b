"""The executor of one device: all work on it, loading and warm-up included, runs on one thread, in order.

Task threads hand it a job and wait. So the text encoding, denoising and decoding of the next job run while the last job
is compressed and uploaded.
"""

import contextvars
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress

import torch

from jobs.model_card import size_limits
from jobs.record import Job
from pipeline import Drawing, Generation, ZImagePipeline
from pipeline.faults import Fault, fault_of, try_device
from pipeline.timeline import Stages
from worker.executor.busy import BusySeconds
from worker.executor.executor import Listener, Loaded
from worker.executor.rate import Rate

LOOK_SECONDS = 0.25  # how often a waiting job is looked after
WARM_UP_STEPS = 2


class DeviceThread:
    """Owns a device and the pipeline on it.

    Args:
        load: returns the pipeline, its model's name, and the hub's commit, if it is one; called on the device's thread,
            like all that uses it.

    Raises:
        Exception: whatever `load` raises.
    """

    def __init__(self, load: Callable[[], tuple[ZImagePipeline, str, str | None]]) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="gpu")
        self.rate = Rate()  # measured from the warm-up on
        self._drawing = False
        self._signs_of_life = 0
        self._pipeline, model, commit = self._thread.submit(load).result()
        self.loaded = _loaded(self._pipeline, model, commit)
        self._thread.submit(self._warm_up).result()

    def draw(self, job: Job, listener: Listener) -> Generation:
        """Wait for the device and draw the job's images, as `Executor` says; one at a time where memory is short."""
        asked = time.monotonic()

        def on_device() -> Generation:
            with self.rate.measured(job.input.cost, asked) as taken:
                generation = self._draw(job, listener)
                taken.work = job.input.cost_drawn(sum(generation.steps_skipped))
            return generation

        # In the caller's context, so that what is logged there is told to be about this job.
        drawing = self._thread.submit(contextvars.copy_context().run, on_device)
        while not wait([drawing], LOOK_SECONDS).done:
            if not drawing.running():
                try:
                    listener.waiting()
                except BaseException:
                    if drawing.cancel():
                        raise
        return drawing.result()

    def sign_of_life(self) -> int | None:
        """Return a number that changes as the job on the device goes on; None while there is no job on it."""
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

    def _draw(self, job: Job, listener: Listener) -> Generation:
        self._drawing = True
        busy = BusySeconds(job.owner)
        try:
            return self._draw_within_memory(job, busy, listener)
        except Exception as error:
            if fault_of(error) is not Fault.BROKEN:  # it may show in the next job only, which is innocent
                try_device(self._pipeline.device)
            raise
        finally:
            self._drawing = False
            busy.count()

    def _draw_within_memory(self, job: Job, busy: BusySeconds, listener: Listener) -> Generation:
        every = range(job.input.num_images)
        try:
            return self._generate(job, every, busy, listener)
        except Exception as error:
            if fault_of(error) is not Fault.MEMORY:
                raise
        # Outside of that block: the exception keeps the failed call's tensors alive.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return _together([self._generate(job, every[image : image + 1], busy, listener) for image in every])

    def _generate(self, job: Job, images: range, busy: BusySeconds, listener: Listener) -> Generation:
        """Draw some of the job's images, counted from 0."""

        def alive() -> None:
            self._signs_of_life += 1
            busy.count()

        def on_step(step: int, _total: int) -> None:
            alive()
            listener.on_step(step)

        def on_decode(image: int, _total: int) -> None:
            alive()
            listener.on_decode(images.start + image)

        on_step(0, job.input.num_inference_steps)
        first_seed, num_images = (job.input.seed or 0) + images.start, len(images)
        fields = job.input.picture()
        drawing = Drawing(
            **fields,
            seed=first_seed,
            num_images=num_images,
            on_step=on_step,
            on_decode=on_decode,
            cache_scope=job.owner,
        )
        stages = Stages(self._pipeline.device)
        try:
            return self._pipeline.generate(drawing, stages)
        finally:
            with suppress(RuntimeError):  # of a device that is broken: what broke it tells more
                listener.on_stages(stages.seconds())


def _loaded(pipeline: ZImagePipeline, model: str, commit: str | None) -> Loaded:
    device = pipeline.device
    return Loaded(
        model=model,
        commit=commit,
        device=str(device),
        precision=str(next(pipeline.transformer.parameters()).dtype).removeprefix("torch."),
        quantization=pipeline.quantization,
        product=pipeline.product,
        vram_bytes=torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 0,
        plan=pipeline.plan,
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
        steps_skipped=[skipped for part in parts for skipped in part.steps_skipped],
    )
