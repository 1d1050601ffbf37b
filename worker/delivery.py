"""Brings a drawn job to S3: PNG files, uploads that outlast an outage, and the question whether S3 takes any more."""

import hashlib
import logging
import threading
import time
from datetime import UTC, datetime
from functools import partial
from typing import Any

from jobs.objects.images import ImageStore
from jobs.objects.refusals import STORAGE_ERRORS, code_of, is_too_large, told
from jobs.record import ImageRecord, Job
from pipeline import Generation
from worker import metrics
from worker.held import HeldJob, StopJobError
from worker.patience import patiently
from worker.png import encode_png
from worker.png_parameters import image_parameters

log = logging.getLogger(__name__)

STORAGE_PAUSE = 2.0  # seconds between two uploads that ask whether S3 takes images again
BLIP_SECONDS = 10.0  # for which uploads may fail before it is told: what a busy S3 refuses once, it takes soon


class ClockSkewError(Exception):
    """S3 refuses what this machine signs, because its clock is wrong: another worker can deliver the job."""


class TooLargeError(Exception):
    """S3 takes no object of this size: of no use to try again, and no reason to keep other jobs waiting."""


class Delivery:
    """Uploads images, from several task threads at once.

    Args:
        images: the bucket.
        model: name of the model, told in every PNG.
        seconds: how long a job's images are held for an S3 that is away.
    """

    def __init__(self, images: ImageStore, model: str, seconds: float) -> None:
        self._images = images
        self._model = model
        self._seconds = seconds
        self._lock = threading.Lock()
        self._refused: tuple[Job, int] | None = None  # whose upload was given up, and an image's bytes
        self._failing_since: float | None = None  # no upload has succeeded since then
        self._said = ""  # by S3, at the last failure

    def ready(self) -> bool:
        """Tell whether a job is worth claiming: once an upload was given up not until S3 has taken as much again."""
        return self._refused is None

    def trouble(self) -> str | None:
        """Return what keeps images from S3, None while it takes them."""
        since = self._failing_since
        failing = since is not None and time.monotonic() - since > BLIP_SECONDS
        return f"S3 (ZIMAGE_S3_ENDPOINT) takes no images: {self._said}" if failing or self._refused else None

    def deliver(self, held: HeldJob, generation: Generation) -> list[ImageRecord]:
        """Upload the job's images and `job.json`; return what the record says of them.

        Raises:
            StopJobError: there is no use in going on.
            ClockSkewError: S3 refuses the signature's time.
            TooLargeError: S3 takes no object of an image's size.
            botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError: S3 was away for too long.
        """
        job = held.claim.job
        deadline = time.monotonic() + self._seconds
        records: list[ImageRecord] = []
        for index, (pixels, skipped) in enumerate(zip(generation.images, generation.steps_skipped, strict=True)):
            held.check()
            held.uploading = True
            parameters = image_parameters(job.input, self._model, index, skipped)
            with held.timed("png"):
                png = encode_png(pixels.numpy(), parameters)
            key = self._images.key(job.id, job.attempt, index)
            with held.timed("upload"):
                self._upload(partial(self._images.put_png, key, png), held, deadline, len(png))
            records.append(_record(job, index, parameters, key, png))
        put_parameters = partial(self._images.put_parameters, job.id, job.attempt, self._job_parameters(job, records))
        with held.timed("upload"):
            self._upload(put_parameters, held, deadline, len(png))
        return records

    def _job_parameters(self, job: Job, images: list[ImageRecord]) -> dict[str, Any]:
        """Return what `job.json` tells."""
        return {
            "id": job.id,
            "input": job.input.model_dump(),
            "model": self._model,
            "steps_skipped": [image.steps_skipped for image in images],
            "drawn_at": datetime.now(UTC).isoformat(),
        }

    def _upload(self, put: "partial[None]", held: HeldJob, deadline: float, image_bytes: int) -> None:
        def put_or_tell() -> None:
            try:
                put()
            except STORAGE_ERRORS as error:
                if is_too_large(error):
                    raise TooLargeError(told(error)) from error
                self._note_failure(error)
                if code_of(error) == "RequestTimeTooSkewed":
                    raise ClockSkewError(str(error)) from error
                raise
            self._failing_since = None

        try:
            patiently("s3", STORAGE_ERRORS, deadline - time.monotonic(), held.check)(put_or_tell)
        except (*STORAGE_ERRORS, ClockSkewError, StopJobError):
            self._refuse(held.claim.job, image_bytes)
            raise

    def _note_failure(self, error: Exception) -> None:
        self._said = told(error)
        self._failing_since = self._failing_since or time.monotonic()

    def _refuse(self, job: Job, image_bytes: int) -> None:
        """Let no job be claimed until S3 takes so much, which is asked on a thread of its own from now on."""
        with self._lock:
            asked = self._refused is not None
            self._refused = job, image_bytes
        if not asked:
            threading.Thread(target=self._ask_until_taken, name="s3", daemon=True).start()

    def _ask_until_taken(self) -> None:
        logged = ""
        while refused := self._refused:
            job, size = refused
            try:
                self._images.try_put(job.id, job.attempt, size)
            except STORAGE_ERRORS as error:
                if not is_too_large(error):
                    metrics.server_errors_total.labels("s3").inc()
                    self._note_failure(error)
                    if self._said != logged:
                        log.warning("no job is claimed while S3 takes no image: %s", self._said)
                        logged = self._said
                    time.sleep(STORAGE_PAUSE)
                    continue
            with self._lock:
                if self._refused is refused:  # else another one was given up meanwhile, a larger one maybe
                    self._refused = self._failing_since = None
                    log.info("S3 takes images again")


def _record(job: Job, index: int, parameters: dict[str, Any], key: str, png: bytes) -> ImageRecord:
    return ImageRecord(
        index=index,
        seed=parameters["seed"],
        width=job.input.width,
        height=job.input.height,
        bytes=len(png),
        sha256=hashlib.sha256(png).hexdigest(),
        key=key,
        steps_skipped=parameters["steps_skipped"],
    )
