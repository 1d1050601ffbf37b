"""Brings a drawn job to S3: PNG files, uploads that outlast an outage, and the question whether S3 takes any more."""

import hashlib
import logging
import time
from datetime import UTC, datetime
from functools import partial
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from jobs.objects.images import ImageStore, told
from jobs.record import ImageRecord, Job
from pipeline import Generation
from worker import metrics
from worker.held import HeldJob, StopJobError
from worker.patience import patiently
from worker.png import encode_png
from worker.png_parameters import image_parameters

log = logging.getLogger(__name__)

_STORAGE_ERRORS = (BotoCoreError, ClientError)


class ClockSkewError(Exception):
    """S3 refuses what this machine signs, because its clock is wrong: another worker can deliver the job."""


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
        self._refused: tuple[Job, int] | None = None  # whose upload failed last, and an image's bytes

    def ready(self) -> bool:
        """Tell whether a job is worth claiming: after a failed upload not until S3 has taken as much again."""
        if self._refused:
            job, size = self._refused
            try:
                self._images.try_put(job.id, job.attempt, size)
            except _STORAGE_ERRORS as error:
                metrics.server_errors_total.labels("s3").inc()
                log.warning("no job is claimed while S3 takes no image: %s", told(error))
                return False
            self._refused = None
        return True

    def deliver(self, held: HeldJob, generation: Generation) -> list[ImageRecord]:
        """Upload the job's images and `job.json`; return what the record says of them.

        Raises:
            StopJobError: S3 is away, and meanwhile there is no use in going on.
            ClockSkewError: S3 refuses the signature's time.
            botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError: S3 was away for too long.
        """
        job = held.claim.job
        held.uploading = True
        deadline = time.monotonic() + self._seconds
        records: list[ImageRecord] = []
        for index, pixels in enumerate(generation.images):
            parameters = image_parameters(job.input, self._model, index)
            with held.timed("png"):
                png = encode_png(pixels.numpy(), parameters)
            key = self._images.key(job.id, job.attempt, index)
            with held.timed("upload"):
                self._upload(partial(self._images.put_png, key, png), held, deadline, len(png))
            records.append(_record(job, index, parameters["seed"], key, png))
        put_parameters = partial(self._images.put_parameters, job.id, job.attempt, self._job_parameters(job))
        with held.timed("upload"):
            self._upload(put_parameters, held, deadline, len(png))
        return records

    def _job_parameters(self, job: Job) -> dict[str, Any]:
        """Return what `job.json` tells."""
        drawn_at = datetime.now(UTC).isoformat()
        return {"id": job.id, "input": job.input.model_dump(), "model": self._model, "drawn_at": drawn_at}

    def _upload(self, put: "partial[None]", held: HeldJob, deadline: float, image_bytes: int) -> None:
        def put_unless_skewed() -> None:
            try:
                put()
            except ClientError as error:
                if error.response["Error"]["Code"] == "RequestTimeTooSkewed":
                    raise ClockSkewError(str(error)) from error
                raise

        try:
            patiently("s3", _STORAGE_ERRORS, deadline - time.monotonic(), held.check)(put_unless_skewed)
        except (*_STORAGE_ERRORS, ClockSkewError, StopJobError):
            self._refused = held.claim.job, image_bytes
            raise


def _record(job: Job, index: int, seed: int, key: str, png: bytes) -> ImageRecord:
    width, height, digest = job.input.width, job.input.height, hashlib.sha256(png).hexdigest()
    return ImageRecord(index=index, seed=seed, width=width, height=height, bytes=len(png), sha256=digest, key=key)
