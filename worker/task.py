"""One ring of the doorbell: claim a job, draw it on the GPU thread, upload its images, commit."""

import hashlib
import logging
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from typing import Literal, TypeVar

import torch
from botocore.exceptions import BotoCoreError, ClientError
from redis.exceptions import RedisError

from jobs.images import ImageStore, StillThereError
from jobs.models import ImageRecord, JobError
from jobs.worker_store import Claim, WorkerStore
from pipeline import Generation, ZImagePipeline
from worker import metrics
from worker.gpu_thread import GpuThread
from worker.lease import HeldJob, Leases
from worker.model import size_warnings
from worker.parameters import image_parameters
from worker.png import encode_png

log = logging.getLogger(__name__)

T = TypeVar("T")

HOLD_SECONDS = 600  # how long a finished job is held for a Redis that is away
UPLOAD_SECONDS = 60  # how long an image is held for an S3 that is away
STORAGE_ERRORS = (BotoCoreError, ClientError)
_MUTE_SECONDS = 5.0  # how long progress is not reported after Redis failed to take it


class StopDrawingError(Exception):
    """Raised between denoising steps; the argument says why."""

    def __init__(self, reason: Literal["cancel", "lost", "deadline"]) -> None:
        super().__init__(reason)
        self.reason = reason


class JobRunner:
    """Does this worker's jobs, one for each call of `run`; called from several task threads at once.

    Args:
        pipeline: warm.
        gpu: the thread that may touch it.
        store: the jobs.
        images: the bucket.
        leases: keeps the claims alive.
        worker: this worker's id.
        model: name of the model, told in every PNG.
    """

    def __init__(
        self,
        pipeline: ZImagePipeline,
        gpu: GpuThread,
        store: WorkerStore,
        images: ImageStore,
        leases: Leases,
        worker: str,
        model: str,
    ) -> None:
        self._pipeline = pipeline
        self._gpu = gpu
        self._store = store
        self._images = images
        self._leases = leases
        self._worker = worker
        self._model = model
        self._stopping = threading.Event()
        self._muted_until = 0.0

    def stop_claiming(self) -> None:
        """Let the jobs at hand finish, take no new ones."""
        self._stopping.set()

    def run(self) -> None:
        """Claim the best job and see it to its end; return at once when none waits."""
        with ExitStack() as turn:
            turn.enter_context(self._gpu.turn())
            claim = None if self._stopping.is_set() else self._store.claim(self._worker)
            if claim is None:
                return
            metrics.queue_wait_seconds.observe(claim.job.timings["queue"])
            with self._leases.hold(claim) as held:
                outcome = self._attempt(held, end_turn=turn.close)
            metrics.job_attempts_total.labels(outcome).inc()
            if outcome in ("succeeded", "failed", "canceled"):
                metrics.job_seconds.labels(outcome).observe(held.age())
            log.info("job %s attempt %d: %s", claim.job.id, claim.job.attempt, outcome)

    def _attempt(self, held: HeldJob, end_turn: Callable[[], None]) -> str:
        """Draw and deliver; return how the attempt ended."""
        claim = held.claim
        try:
            generation = self._gpu.draw(
                claim.job.input.work, lambda: self._draw(held), while_waiting=lambda: self._report(held, 0)
            )
            end_turn()  # the device goes on with the next job while this one is delivered
            return self._deliver(claim, generation)
        except StopDrawingError as stop:
            if stop.reason == "lost":
                return "lost"
            if stop.reason == "cancel":
                return self._insist(lambda: self._store.requeue(claim))
            message = "timeout_seconds passed before the job was done"
            error = JobError(code="deadline_exceeded", message=message, retryable=True)
        except RedisError:
            log.exception("job %s: Redis was away for too long; the job goes to another worker", claim.job.id)
            return "lost"
        except Exception as exception:  # whatever went wrong, the job must end and the worker go on
            error = job_error(exception)
            unexpected = exception if error.code == "internal_error" else None
            log.error("job %s failed: %s", claim.job.id, error.message, exc_info=unexpected)
        return self._insist(lambda: self._store.fail(claim, error))

    def _draw(self, held: HeldJob) -> Generation:
        """Draw the job's images; runs on the GPU thread."""
        job = held.claim.job

        def on_step(step: int, _total: int) -> None:
            self._gpu.count_busy()
            self._report(held, step)

        self._report(held, 0)
        return self._pipeline.generate(
            job.input.prompt,
            negative_prompt=job.input.negative_prompt,
            height=job.input.height,
            width=job.input.width,
            num_inference_steps=job.input.num_inference_steps,
            guidance_scale=job.input.guidance_scale,
            seed=job.input.seed or 0,
            num_images=job.input.num_images,
            on_step=on_step,
        )

    def _report(self, held: HeldJob, step: int) -> None:
        """Tell how many steps are done.

        Raises:
            StopDrawingError: there is no use in going on.
        """
        claim = held.claim
        if held.seconds_left() <= 0:
            raise StopDrawingError("deadline")
        # A Redis that is away must not stop the device: after a failure go on without it for a while.
        if time.monotonic() >= self._muted_until:
            try:
                held.verdict = self._store.progress(claim, step)
            except RedisError as error:
                log.warning("job %s: progress not reported: %s", claim.job.id, error)
                self._muted_until = time.monotonic() + _MUTE_SECONDS
        if held.verdict != "ok":
            raise StopDrawingError(held.verdict)

    def _deliver(self, claim: Claim, generation: Generation) -> str:
        """Upload the images and commit; return the job's state, or `refused` when another attempt has it."""
        job = claim.job
        records: list[ImageRecord] = []
        png_seconds = upload_seconds = 0.0
        for index, pixels in enumerate(generation.images):
            parameters = image_parameters(job.input, self._model, index)
            start = time.monotonic()
            png = encode_png(pixels.numpy(), parameters)
            encoded = time.monotonic()
            key = self._images.key(job.id, job.attempt, index)
            self._insist(partial(self._images.put_png, key, png), STORAGE_ERRORS, UPLOAD_SECONDS)
            png_seconds += encoded - start
            upload_seconds += time.monotonic() - encoded
            record = ImageRecord(
                index=index,
                seed=parameters["seed"],
                width=job.input.width,
                height=job.input.height,
                bytes=len(png),
                sha256=hashlib.sha256(png).hexdigest(),
                key=key,
            )
            records.append(record)
        parameters = {
            "id": job.id,
            "input": job.input.model_dump(),
            "model": self._model,
            "drawn_at": datetime.now(UTC).isoformat(),
        }
        put = partial(self._images.put_parameters, job.id, job.attempt, parameters)
        self._insist(put, STORAGE_ERRORS, UPLOAD_SECONDS)
        stages = {**generation.timings, "png": png_seconds, "upload": upload_seconds}
        for stage, seconds in stages.items():
            metrics.stage_seconds.labels(stage).observe(seconds)
        warnings = [*generation.warnings, *size_warnings(self._model, job.input.width, job.input.height)]
        metrics.vram_peak_bytes.set(generation.peak_vram_bytes)
        metrics.prompts_total.labels("encoded").inc(generation.prompts - generation.prompts_reused)
        metrics.prompts_total.labels("reused").inc(generation.prompts_reused)

        outcome = self._insist(lambda: self._store.commit(claim, records, stages, generation.peak_vram_bytes, warnings))
        if outcome == "succeeded":
            metrics.images_total.labels(f"{job.input.width}x{job.input.height}").inc(len(records))
        else:
            self._remove(claim)
        return outcome

    def _remove(self, claim: Claim) -> None:
        """Remove the images of an attempt that did not win."""
        try:
            self._images.delete_attempt(claim.job.id, claim.job.attempt)
        except (BotoCoreError, ClientError, StillThereError) as error:
            log.warning("job %s: images of attempt %d stay behind: %s", claim.job.id, claim.job.attempt, error)

    def _insist(
        self,
        call: Callable[[], T],
        errors: tuple[type[Exception], ...] = (RedisError,),
        seconds: float = HOLD_SECONDS,
    ) -> T:
        """Call until the server answers, which may be away for so long.

        Raises:
            Exception: one of `errors`; it was away for longer.
        """
        deadline = time.monotonic() + seconds
        pause = 0.1
        while True:
            try:
                return call()
            except errors as error:
                if time.monotonic() + pause > deadline:
                    raise
                log.warning("a job's end is held: %s", error)
                time.sleep(pause)
                pause = min(pause * 2, 5.0)


def job_error(exception: Exception) -> JobError:
    """Return what a client is told about an exception."""
    code, message, retryable = "internal_error", f"{type(exception).__name__}: {exception}", True
    match exception:
        case torch.OutOfMemoryError():
            code, retryable = "out_of_memory", False
            message = "the GPU has too little memory for this job: ask for a smaller size or fewer images"
        case ValueError():
            code, message, retryable = "invalid_input", str(exception), False
        case BotoCoreError() | ClientError():
            code, message = "storage_unavailable", f"S3 did not take the images: {exception}"
    return JobError(code=code, message=message, retryable=retryable)
