"""Images in S3: keys, upload, presigned URLs, listing, removal.

Keys are `{prefix}/{job_id}/{attempt}/{index}.png`, with a `job.json` beside them: a lost attempt writes elsewhere and
can never overwrite a finished image.
"""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from email.utils import parsedate_to_datetime
from typing import Any

from botocore.exceptions import ClientError

from jobs.objects.s3_client import ATTEMPTS, connect, server
from jobs.settings import Settings
from network.proxies import through

MOST_KEYS = 1000  # that S3 lists or removes in one request


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

    @property
    def address(self) -> str:
        """Where the bucket is, the settings that say so, and the proxy before it."""
        endpoint = self._settings.s3_endpoint
        place = f"S3 at {endpoint or 'AWS'} (ZIMAGE_S3_ENDPOINT), bucket {self._settings.s3_bucket} (ZIMAGE_S3_BUCKET)"
        return place + through(server(self._settings, endpoint))

    def key(self, job_id: str, attempt: int, index: int) -> str:
        """Return the key of an image."""
        return f"{self._attempt_prefix(job_id, attempt)}{index}.png"

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
        self._put(f"{self._attempt_prefix(job_id, attempt)}job.json", body, "application/json")

    def _put(self, key: str, body: bytes, content_type: str) -> None:
        self._client.put_object(Bucket=self._settings.s3_bucket, Key=key, Body=body, ContentType=content_type)

    def get_png(self, key: str, size: int) -> bytes:
        """Download an image of `size` bytes; of a larger object no more than that is read."""
        with closing(self._client.get_object(Bucket=self._settings.s3_bucket, Key=key)["Body"]) as body:
            png: bytes = body.read(size)
        return png

    def presign(self, key: str) -> str:
        """Return a URL that reads the object without credentials for `ZIMAGE_URL_TTL` seconds."""
        params = {"Bucket": self._settings.s3_bucket, "Key": key}
        url: str = self._presigner.generate_presigned_url("get_object", Params=params, ExpiresIn=self._settings.url_ttl)
        return url

    def delete_job(self, job_id: str) -> None:
        """Remove every object of a job, those of lost attempts included."""
        self._delete_prefix(self._job_prefix(job_id))

    def delete_attempt(self, job_id: str, attempt: int) -> None:
        """Remove what one attempt uploaded."""
        self._delete_prefix(self._attempt_prefix(job_id, attempt))

    def _delete_prefix(self, prefix: str) -> None:
        for page in self._pages(prefix):
            keys = [item["Key"] for item in page.get("Contents", [])]
            if keys and (left := self.remove(keys)):
                raise StillThereError(min(left))

    def _pages(self, prefix: str) -> Iterator[dict[str, Any]]:
        paginator = self._client.get_paginator("list_objects_v2")
        yield from paginator.paginate(Bucket=self._settings.s3_bucket, Prefix=prefix)

    def uploads(self) -> Iterator[list[StoredObject]]:
        """Yield everything that attempts uploaded, up to `MOST_KEYS` at a time; other objects are passed over."""
        start = f"{self._settings.s3_prefix}/"
        uploaded = re.compile(re.escape(start) + r"(job_[^/]+)/([0-9]+)/.+", re.DOTALL)
        for page in self._pages(f"{start}job_"):
            now = parsedate_to_datetime(page["ResponseMetadata"]["HTTPHeaders"]["date"])  # in whole seconds
            found = []
            for item in page.get("Contents", []):
                if match := uploaded.fullmatch(item["Key"]):
                    age = now - item["LastModified"].replace(microsecond=0)
                    found.append(StoredObject(item["Key"], match[1], int(match[2]), item["Size"], age))
            yield found

    def remove(self, keys: Sequence[str]) -> set[str]:
        """Remove up to `MOST_KEYS` objects; return the keys of those that S3 did not remove."""
        objects = [{"Key": key} for key in keys]
        answer = self._client.delete_objects(
            Bucket=self._settings.s3_bucket, Delete={"Objects": objects, "Quiet": True}
        )
        return {error["Key"] for error in answer.get("Errors", [])}

    def try_put(self, job_id: str, attempt: int, size: int) -> None:
        """Ask whether the bucket takes an object of `size` bytes: a full or read-only one answers all else.

        It is one of the attempt's, so that it goes with them should S3 not remove it at once.
        """
        key = f"{self._attempt_prefix(job_id, attempt)}probe"
        self._put(key, bytes(size), "application/octet-stream")
        self.remove([key])

    def check(self) -> None:
        """Ask whether the bucket is there and ours to use."""
        self._client.head_bucket(Bucket=self._settings.s3_bucket)


def told(error: Exception) -> str:
    """Return what to tell an operator of an error of S3: a 403 to a HEAD has no body that says why."""
    if isinstance(error, ClientError) and error.response["ResponseMetadata"]["HTTPStatusCode"] == 403:
        return f"{error}: check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, what they may do, and this machine's clock"
    return str(error)


class StillThereError(OSError):
    """S3 did not remove an object; the argument is its key."""
