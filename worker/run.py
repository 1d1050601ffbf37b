"""One ring of the doorbell: claim a job, have it drawn and delivered, commit."""

import logging
import threading
from collections.abc import Callable
from contextlib import ExitStack

import torch
from botocore.exceptions import BotoCoreError, ClientError
from redis.exceptions import RedisError

from jobs.record import JobError
from jobs.store.worker import AloneError, Claim, WorkerStore
from jobs.telemetry.logs import about
from pipeline import Generation
from worker import metrics
from worker.delivery import ClockSkewError, Delivery
from worker.executor.drawing import Artist, breaks_device
from worker.executor.thread import GpuThread
from worker.held import HeldJob, StopJobError
from worker.leases import Leases
from worker.leaving import BROKEN, Departure
from worker.loading import size_warnings
from worker.patience import patiently

log = logging.getLogger(__name__)

STORAGE_PAUSE = 2.0  # seconds between two looks whether S3 is back


class JobRunner:
    """Does this worker's jobs, one for each call of `run`; called from several threads at once.

    Args:
        artist: draws.
        delivery: brings the images to S3.
        gpu: gives turns at the device.
        store: the jobs.
        leases: keeps the claims alive.
        departure: the way out when the device is broken.
        worker: this worker's id.
        model: name of the model.
        hold_seconds: how long a finished job is held for a Redis that is away.
    """

    def __init__(
        self,
        artist: Artist,
        delivery: Delivery,
        gpu: GpuThread,
        store: WorkerStore,
        leases: Leases,
        departure: Departure,
        worker: str,
        model: str,
        hold_seconds: float,
    ) -> None:
        self.stop_claiming = threading.Event()  # set: the jobs at hand may finish, no new ones are taken
        self._artist = artist
        self._delivery = delivery
        self._gpu = gpu
        self._store = store
        self._leases = leases
        self._departure = departure
        self._worker = worker
        self._model = model
        self._until_redis_answers = patiently("redis", RedisError, hold_seconds)
        self._claiming = threading.Lock()
        self._claims = 0

    def run(self) -> bool:
        """Claim the best job and see it to its end; return False at once when none waits."""
        with ExitStack() as turn:
            turn.enter_context(self._gpu.turn())
            held = self._claim()
            if held is None:
                return False
            try:
                job = held.claim.job
                metrics.queue_wait_seconds.observe(job.timings["queue"])
                with about(job):
                    outcome = self._attempt(held, end_turn=turn.close)
                    if held.uploading and outcome != "succeeded":
                        self._remove_in_vain(held)
                metrics.job_attempts_total.labels(outcome).inc()
                if outcome in ("succeeded", "failed", "canceled"):
                    metrics.job_seconds.labels(outcome).observe(held.age())
                held.tell_end(outcome)
            finally:
                self._leases.drop(held)
        return True

    def finish(self) -> None:
        """Return when no job is at hand; call it once `stop_claiming` is set."""
        with self._claiming:  # whoever has it might be claiming yet
            pass
        self._leases.wait_until(lambda jobs: not jobs)

    def _claim(self) -> HeldJob | None:
        with self._claiming:  # one at a time, so that a job which wants the worker for itself gets it
            self._leases.wait_until(lambda jobs: not any(held.claim.job.losses for held in jobs))
            while True:
                # Waits here rather than leave: a worker that can't deliver must not use up the bells of those that can.
                while not self._delivery.ready() and not self.stop_claiming.wait(STORAGE_PAUSE):
                    pass
                if self.stop_claiming.is_set():
                    return None
                try:
                    return self._claim_now(alone=not self._leases.held())
                except AloneError:
                    self._leases.wait_until(lambda jobs: not jobs)
                except RedisError as error:
                    log.warning("could not claim a job: %s", error)
                    return None

    def _claim_now(self, alone: bool) -> HeldJob | None:
        with self._departure.put_off():
            claim = self._store.claim(self._worker, self._claims, alone=alone)
            if claim is None:
                return None
            self._claims += 1
            return self._leases.add(claim)

    def _attempt(self, held: HeldJob, end_turn: Callable[[], None]) -> str:
        """Draw and deliver; return how the attempt ended."""
        claim = held.claim
        try:
            generation = self._artist.draw(held)
            held.done(generation.timings)
            end_turn()  # the device goes on with the next job while this one is delivered
            return self._deliver(held, generation)
        except StopJobError as stop:
            if stop.reason == "lost":
                return "lost"
            if stop.reason == "cancel":
                return self._end(self._store.requeue, claim)
            message = "timeout_seconds passed before the job was done"
            error = JobError(code="deadline_exceeded", message=message, retryable=True)
        except ClockSkewError as skew:
            log.error("S3 refuses the time of this machine's clock (%s): set it right; jobs are handed back", skew)
            return self._end(self._store.requeue, claim)
        except RedisError:
            log.exception("job %s: Redis was away for too long; the job goes to another worker", claim.job.id)
            return "lost"
        except Exception as exception:  # whatever went wrong, the job must end and the worker go on
            error = job_error(exception)
            if breaks_device(exception):
                log.critical("the device is broken for this process, which ends: %s", exception)
                self._departure.leave(BROKEN, held, error)
            unexpected = exception if error.code == "internal_error" else None
            log.error("job %s failed: %s", claim.job.id, error.message, exc_info=unexpected)
        held.error = error
        return self._end(self._store.fail, claim, error)

    def _end(self, script: Callable[..., str], claim: Claim, *arguments: JobError) -> str:
        """End an attempt without a result; return the job's state, or `lost` when Redis stays away."""
        try:
            outcome: str = self._until_redis_answers(script, claim, *arguments)
        except RedisError as error:
            log.warning("job %s: Redis was away for too long (%s); its lease will end", claim.job.id, error)
            return "lost"
        return outcome

    def _deliver(self, held: HeldJob, generation: Generation) -> str:
        """Upload the images and commit; return the job's state, or `refused` when another attempt has it."""
        claim, job = held.claim, held.claim.job
        records, seconds = self._delivery.deliver(held, generation)
        held.done(seconds)
        stages = {**generation.timings, **seconds}
        for stage, spent in stages.items():
            metrics.stage_seconds.labels(stage).observe(spent)
        metrics.vram_peak_bytes.set(generation.peak_vram_bytes)
        metrics.prompts_total.labels("encoded").inc(generation.prompts - generation.prompts_reused)
        metrics.prompts_total.labels("reused").inc(generation.prompts_reused)
        warnings = [*generation.warnings, *size_warnings(self._model, job.input.width, job.input.height)]

        outcome = self._until_redis_answers(
            self._store.commit, claim, records, stages, generation.peak_vram_bytes, warnings
        )
        if outcome == "succeeded":
            metrics.images_total.labels(f"{job.input.width}x{job.input.height}").inc(len(records))
            metrics.key_images_total.labels(job.owner).inc(len(records))
            metrics.key_pixels_total.labels(job.owner).inc(sum(record.width * record.height for record in records))
        return outcome

    def _remove_in_vain(self, held: HeldJob) -> None:
        """Remove what an attempt has uploaded that did not win."""
        job = held.claim.job
        try:
            if not self._store.may_keep(job):
                self._delivery.remove(job)
        except RedisError as error:
            log.warning("job %s: images of attempt %d stay behind: %s", job.id, job.attempt, error)


def job_error(exception: Exception) -> JobError:
    """Return what a client is told about an exception."""
    code, message, retryable = "internal_error", f"{type(exception).__name__}: {exception}", True
    match exception:
        case torch.OutOfMemoryError():
            code, retryable = "out_of_memory", False
            message = "the GPU has too little memory for this job: ask for a smaller size"
        case ValueError():
            code, message, retryable = "invalid_input", str(exception), False
        case BotoCoreError() | ClientError():
            code, message = "storage_unavailable", f"S3 did not take the images: {exception}"
        case _ if breaks_device(exception):
            code, message = "device_error", f"the GPU failed while drawing this job: {exception}"
    return JobError(code=code, message=message, retryable=retryable)
