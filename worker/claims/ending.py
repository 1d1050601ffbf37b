"""How an attempt ends: with its images, handed back, failed, or as somebody else's."""

import logging
from collections.abc import Callable, Sequence

from botocore.exceptions import BotoCoreError, ClientError
from redis.exceptions import RedisError

from jobs.objects.images import ImageStore
from jobs.objects.refusals import STORAGE_ERRORS
from jobs.objects.removal import StillThereError
from jobs.record import ImageRecord, JobError
from jobs.store.worker import Claim, WorkerStore
from pipeline.faults import Fault, fault_of
from worker.claims.departure import BROKEN, Departure
from worker.delivery import ClockSkewError, TooLargeError
from worker.executor.device_errors import device_error
from worker.held import HeldJob, StopJobError
from worker.observers.observer import Observer
from worker.patience import patiently

log = logging.getLogger(__name__)


class Ending:
    """Tells Redis how attempts ended, patiently: it may be away.

    Args:
        store: the jobs.
        images: the bucket.
        departure: the way out when the device is broken.
        observers: are told of failures.
        hold_seconds: how long a finished job is held for a Redis that is away.
    """

    def __init__(
        self, store: WorkerStore, images: ImageStore, departure: Departure, observers: Observer, hold_seconds: float
    ) -> None:
        self._store = store
        self._images = images
        self._departure = departure
        self._observers = observers
        self._until_redis_answers = patiently("redis", RedisError, hold_seconds)

    def commit(
        self,
        held: HeldJob,
        images: Sequence[ImageRecord],
        peak_vram_bytes: int,
        warnings: Sequence[str],
    ) -> str:
        """End the job with its images; return its status, or `refused` when another attempt has it.

        Raises:
            redis.exceptions.RedisError: Redis was away for too long.
        """
        outcome: str = self._until_redis_answers(
            self._store.commit, held.claim, images, held.stages, peak_vram_bytes, warnings
        )
        return outcome

    def give_up(self, held: HeldJob, exception: Exception) -> str:
        """End an attempt without a result, because of an exception; return the job's status, `refused` or `lost`."""
        match exception:
            case StopJobError(reason="lost"):
                return "lost"
            case StopJobError(reason="cancel"):
                return self._end(self._store.requeue, held.claim, held.stages)
            case ClockSkewError():
                message = "S3 refuses the time of this machine's clock (%s): set it right; jobs are handed back"
                log.error(message, exception)
                return self._end(self._store.requeue, held.claim, held.stages)
            case RedisError():
                message = "job %s: Redis was away for too long; the job goes to another worker"
                log.error(message, held.claim.job.id, exc_info=exception)
                return "lost"
        return self._fail(held, exception)

    def remove_in_vain(self, held: HeldJob) -> None:
        """Remove what an attempt has uploaded that did not win."""
        job = held.claim.job
        try:
            if not self._store.may_keep(job):
                uploaded = self._images.keys(job.id, job.attempt, job.input.num_images)
                self._images.delete_attempt(job.id, job.attempt, uploaded)
        except (RedisError, *STORAGE_ERRORS, StillThereError) as error:
            log.warning("job %s: images of attempt %d stay behind: %s", job.id, job.attempt, error)

    def _fail(self, held: HeldJob, exception: Exception) -> str:
        error = held.error = job_error(exception)
        if fault_of(exception) is Fault.BROKEN:
            log.critical("the device is broken for this process, which ends: %s", exception)
            self._departure.leave(BROKEN, held, error)
        if not isinstance(exception, StopJobError):
            self._observers.failed(held, error, exception)
        return self._end(self._store.fail, held.claim, error, held.stages)

    def _end(self, script: Callable[..., str], claim: Claim, *arguments: JobError | dict[str, float]) -> str:
        try:
            outcome: str = self._until_redis_answers(script, claim, *arguments)
        except RedisError as error:
            log.warning("job %s: Redis was away for too long (%s); its lease will end", claim.job.id, error)
            return "lost"
        return outcome


def job_error(exception: Exception) -> JobError:
    """Return what a client is told about an exception: nothing of the service's inside, which the log has."""
    if error := device_error(exception):
        return error
    code, message, retryable = "internal_error", "this is a fault of the service: its worker's log tells more", True
    match exception:
        case StopJobError():
            code, message = "deadline_exceeded", "timeout_seconds passed before the job was done"
        case ValueError():
            code, message, retryable = "invalid_input", str(exception), False
        case BotoCoreError() | ClientError():
            code, message = "storage_unavailable", "S3 did not take the images"
        case TooLargeError():
            code, message, retryable = "storage_unavailable", "S3 takes no image of this size", False
    return JobError(code=code, message=message, retryable=retryable)
