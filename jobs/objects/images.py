"""Images in S3: keys, upload, presigned URLs, listing, removal.

Keys are `{prefix}/{job_id}/{attempt}/{index}.png`, with a `job.json` beside them: a lost attempt writes elsewhere and
can never overwrite a finished image.
"""

import json
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any

from botocore.exceptions import ClientError, IncompleteReadError
from botocore.response import StreamingBody

from jobs.objects.refusals import STORAGE_ERRORS
from jobs.objects.removal import Removal
from jobs.objects.s3_client import ATTEMPTS, connect, endpoint_variable
from jobs.settings import Settings
from network.proxies import through

KEPT_URLS = 1024  # of half a kilobyte each


@dataclass(frozen=True)
class StoredObject:
    """An object that some attempt at a job uploaded; its age is counted by S3's own clock."""

    key: str
    job_id: str
    attempt: int
    bytes: int
    age: timedelta


class ImageStore:
    """The bucket, for API and workers; safe to use from several threads.

    Every method but `presign` raises `botocore.exceptions.BotoCoreError` or `ClientError` when S3 can't be reached or
    refuses.
    """

    def __init__(self, settings: Settings, attempts: int = ATTEMPTS) -> None:
        self._settings = settings
        self._client = connect(settings, settings.s3_endpoint, attempts)
        # A signature covers the host's name, so URLs for clients are signed for the name that clients use.
        public = settings.s3_public_endpoint
        self._presigner = connect(settings, public, only_signs=True) if public else self._client
        self.removal = Removal(self._client, settings.s3_bucket)
        # Hundreds may follow one job, and each is told of its images at the same moment.
        self._signed = lru_cache(KEPT_URLS)(self._sign)

    @property
    def address(self) -> str:
        """Where the bucket is, the settings that say so, and the proxy before it."""
        named = "ZIMAGE_S3_ENDPOINT" if self._settings.s3_endpoint else endpoint_variable() or "no ZIMAGE_S3_ENDPOINT"
        bucket = f"bucket {self._settings.s3_bucket} (ZIMAGE_S3_BUCKET)"
        return f"S3 at {self.endpoint} ({named}), {bucket}{through(self.endpoint)}"

    @property
    def endpoint(self) -> str:
        """The URL that this process asks."""
        url: str = self._client.meta.endpoint_url
        return url

    def key(self, job_id: str, attempt: int, index: int) -> str:
        """Return the key of an image."""
        return f"{self._attempt_prefix(job_id, attempt)}{index}.png"

    def keys(self, job_id: str, attempt: int, images: int) -> list[str]:
        """Return the keys of all that an attempt at so many images uploads."""
        return [*(self.key(job_id, attempt, index) for index in range(images)), self._parameters_key(job_id, attempt)]

    def _parameters_key(self, job_id: str, attempt: int) -> str:
        return f"{self._attempt_prefix(job_id, attempt)}job.json"

    def _job_prefix(self, job_id: str) -> str:
        return f"{self._settings.s3_prefix}/{job_id}/"

    def _attempt_prefix(self, job_id: str, attempt: int) -> str:
        return f"{self._job_prefix(job_id)}{attempt}/"

    def put_png(self, key: str, png: bytes) -> None:
        """Upload an image."""
        self._put(key, png, "image/png")

    def put_parameters(self, job_id: str, attempt: int, parameters: dict[str, Any]) -> None:
        """Upload `job.json`, which says what the images were made from."""
        body = json.dumps(parameters, ensure_ascii=False, indent=1).encode()
        self._put(self._parameters_key(job_id, attempt), body, "application/json")

    def _put(self, key: str, body: bytes, content_type: str) -> None:
        self._client.put_object(Bucket=self._settings.s3_bucket, Key=key, Body=body, ContentType=content_type)

    def get_png(self, key: str, size: int) -> bytes:
        """Download an image of `size` bytes; of a larger object no more than that is read."""
        with closing(self._client.get_object(Bucket=self._settings.s3_bucket, Key=key)["Body"]) as body:
            png: bytes = body.read(size)
        return png

    def open_png(self, key: str, size: int) -> StreamingBody:
        """Begin to download an image of at least `size` bytes; to be closed."""
        answer = self._client.get_object(Bucket=self._settings.s3_bucket, Key=key)
        body: StreamingBody = answer["Body"]
        if answer["ContentLength"] < size:
            body.close()
            raise IncompleteReadError(actual_bytes=answer["ContentLength"], expected_bytes=size)
        return body

    def check_png(self, key: str, size: int) -> None:
        """Ask whether an image of at least `size` bytes is there."""
        found = self._client.head_object(Bucket=self._settings.s3_bucket, Key=key)["ContentLength"]
        if found < size:
            raise IncompleteReadError(actual_bytes=found, expected_bytes=size)

    def presign(self, key: str) -> str:
        """Return a URL that reads the object without credentials for `ZIMAGE_URL_TTL` seconds, or a sixtieth less."""
        return self._signed(key, int(time.time() / (self._settings.url_ttl / 60)))

    def _sign(self, key: str, _: int) -> str:
        params = {"Bucket": self._settings.s3_bucket, "Key": key}
        url: str = self._presigner.generate_presigned_url("get_object", Params=params, ExpiresIn=self._settings.url_ttl)
        return url

    def delete_job(self, job_id: str, known: Iterable[str] = ()) -> None:
        """Remove every object of a job, those of lost attempts included.

        Args:
            job_id: the job's.
            known: keys that it is known to have: the bucket's list may not have yet what is new.

        Raises:
            jobs.objects.removal.StillThereError: S3 did not remove one; all others were asked for.
        """
        self._delete_prefix(self._job_prefix(job_id), known)

    def delete_attempt(self, job_id: str, attempt: int, known: Iterable[str] = ()) -> None:
        """Remove what one attempt uploaded; as `delete_job`."""
        self._delete_prefix(self._attempt_prefix(job_id, attempt), known)

    def _delete_prefix(self, prefix: str, known: Iterable[str]) -> None:
        listed = (item["Key"] for page in self._pages(prefix) for item in page.get("Contents", []))
        left = self.removal.remove(dict.fromkeys([*known, *listed]))
        if left:
            raise min(left.values(), key=lambda error: error.lasting)

    def _pages(self, prefix: str) -> Iterator[dict[str, Any]]:
        where = {"Bucket": self._settings.s3_bucket, "Prefix": prefix}
        page: dict[str, Any] = {}
        for page in self._client.get_paginator("list_objects_v2").paginate(**where):
            yield page
        # So says, without a token to go on with, a store that knows the first version alone.
        if page.get("IsTruncated") and page.get("Contents"):
            last = page["Contents"][-1]["Key"]
            yield from self._client.get_paginator("list_objects").paginate(**where, Marker=last)

    def uploads(self) -> Iterator[list[StoredObject]]:
        """Yield everything that attempts uploaded, page by page; other objects are passed over."""
        start = f"{self._settings.s3_prefix}/"
        uploaded = re.compile(re.escape(start) + r"(job_[^/]+)/([0-9]+)/.+", re.DOTALL)
        for page in self._pages(f"{start}job_"):
            now = _time_of(page)
            found = []
            for item in page.get("Contents", []):
                if match := uploaded.fullmatch(item["Key"]):
                    age = now - item["LastModified"].replace(microsecond=0)
                    found.append(StoredObject(item["Key"], match[1], int(match[2]), item["Size"], age))
            yield found

    def try_put(self, job_id: str, attempt: int, size: int) -> None:
        """Ask whether the bucket takes an object of `size` bytes: a full or read-only one answers all else.

        It is one of the attempt's, so that it goes with them should S3 not remove it at once.
        """
        key = f"{self._attempt_prefix(job_id, attempt)}probe"
        self._put(key, bytes(size), "application/octet-stream")
        with suppress(*STORAGE_ERRORS):  # whatever becomes of it: the bucket takes images
            self.removal.remove([key])

    def check(self) -> None:
        """Ask whether the bucket is there and ours to use."""
        try:
            self._client.head_bucket(Bucket=self._settings.s3_bucket)
        except ClientError:
            # No body comes with the answer to a HEAD: a GET of the same says why, or works where a HEAD is not allowed.
            self.listed("")

    def listed(self, job_id: str) -> list[str]:
        """Return keys of a job's objects, the first ones where there are many."""
        page = self._client.list_objects_v2(Bucket=self._settings.s3_bucket, Prefix=self._job_prefix(job_id))
        return [item["Key"] for item in page.get("Contents", [])]


def _time_of(page: dict[str, Any]) -> datetime:
    """Return S3's time, in whole seconds; this machine's where an answer does not tell it."""
    date = page["ResponseMetadata"]["HTTPHeaders"].get("date")
    return parsedate_to_datetime(date) if date else datetime.now(UTC).replace(microsecond=0)
