"""Removing objects: many with one request where the store can do that, else one by one.

Which way works is found out at the first removal and remembered for as long as the process lives.
"""

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from botocore.exceptions import ClientError

from jobs.objects.refusals import advise, code_of, is_busy, is_lasting

log = logging.getLogger(__name__)

MOST_KEYS = 1000  # that S3 lists or removes in one request

_GONE = ("NoSuchKey",)  # what some stores answer of an object that is not there; AWS says that it was removed


class StillThereError(OSError):
    """S3 did not remove an object.

    Attributes:
        key: the object's.
        code: S3's word for the reason.
        reason: that, and what an operator can do.
        lasting: S3 said no, rather than not now: asking again is of no use until somebody changes what it allows.
    """

    def __init__(self, key: str, error: ClientError) -> None:
        self.key = key
        self.code = code_of(error)
        self.lasting = is_lasting(error)
        advice = advise(self.code, "DeleteObject")
        self.reason = f"{self.code}: {advice}" if advice else self.code
        super().__init__(f"{key} was not removed: {self.reason}")


class NotUnderstoodError(Exception):
    """S3 took a request to remove many objects, and did not say what became of them."""


class Removal:
    """Removes from one bucket; safe to use from several threads.

    Every method returns the error of each object that S3 did not remove, and raises
    `botocore.exceptions.BotoCoreError` or `ClientError` when S3 can't be reached or refuses for now.

    Args:
        client: boto3's.
        bucket: its name.
    """

    def __init__(self, client: Any, bucket: str) -> None:
        self._client = client
        self._bucket = bucket
        self._one_by_one = False
        self._warned = False

    def remove(self, keys: Iterable[str]) -> dict[str, StillThereError]:
        """Remove objects, in the way that the store takes."""
        keys = list(keys)
        left: dict[str, StillThereError] = {}
        for start in range(0, len(keys), MOST_KEYS):
            batch = keys[start : start + MOST_KEYS]
            left |= self.one_by_one(batch) if self._one_by_one else self._find_out(batch)
        self._warn(left)
        return left

    def _find_out(self, keys: Sequence[str]) -> dict[str, StillThereError]:
        try:
            return self.at_once(keys)
        except (ClientError, NotUnderstoodError) as error:
            if isinstance(error, ClientError) and is_busy(error):
                raise
            refusal = error
        # Rather tried than concluded from the code: stores have many words for it, InternalError too, and it may be
        # that they refuse all removals.
        left = self.one_by_one(keys)
        if len(left) < len(keys):
            log.info("objects are removed one by one: S3 does not remove many at once (%s)", refusal)
            self._one_by_one = True
        return left

    def at_once(self, keys: Sequence[str]) -> dict[str, StillThereError]:
        """Remove up to `MOST_KEYS` objects with one request.

        Raises:
            NotUnderstoodError: the answer tells nothing of some of them.
        """
        objects = [{"Key": key} for key in keys]
        answer = self._client.delete_objects(Bucket=self._bucket, Delete={"Objects": objects})
        errors = {error.get("Key"): error for error in answer.get("Errors", [])}
        untold = set(keys) - {removed.get("Key") for removed in answer.get("Deleted", [])} - set(errors)
        if untold:
            raise NotUnderstoodError(f"its answer does not name {min(untold)}")
        return {
            key: StillThereError(key, ClientError({"Error": error}, "DeleteObjects"))
            for key, error in errors.items()
            if error.get("Code") not in _GONE
        }

    def one_by_one(self, keys: Iterable[str]) -> dict[str, StillThereError]:
        """Remove objects with a request for each."""
        left: dict[str, StillThereError] = {}
        for key in keys:
            try:
                self._client.delete_object(Bucket=self._bucket, Key=key)
            except ClientError as error:
                if code_of(error) in _GONE:
                    continue
                if not is_lasting(error):
                    raise
                left[key] = StillThereError(key, error)
        return left

    def _warn(self, left: dict[str, StillThereError]) -> None:
        """Tell once of a store that refuses, rather than at each job."""
        refused = next((error for error in left.values() if error.lasting), None)
        if refused and not self._warned:
            log.error("S3 refuses to remove objects, which stay until `zimage prune` may remove them: %s", refused)
            self._warned = True
