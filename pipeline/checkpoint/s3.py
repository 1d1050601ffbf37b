"""Checkpoints in S3: downloaded into a directory of the cache, which is brought up to date file by file.

Beside the directory lies a record of the object that each file is. It names no file that is not whole, so a download
that broke off goes on where it was, and a file whose object has changed is fetched again.
"""

import fcntl
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

import boto3
from boto3.exceptions import Boto3Error, RetriesExceededError
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as UnreachableError

from network.proxies import ProxyError, through
from pipeline.checkpoint.config import AwayError, CheckpointError, one_line
from pipeline.checkpoint.files import CHECKPOINT_FILES

log = logging.getLogger(__name__)

INDEX = "model_index.json"
Objects = dict[str, dict[str, Any]]  # ETag and size of each object, by its name below the checkpoint's prefix


def objects_of(url: str, connect: Callable[[], Any] | None = None) -> Objects:
    """List what `download` would bring, one object of it being read.

    Raises:
        CheckpointError: as `download`.
    """
    with _bucket(url, connect) as (client, bucket, start):
        objects = _list(client, bucket, start, url)
        client.download_fileobj(bucket, start + INDEX, BytesIO())
    return objects


def download(url: str, cache: Path, connect: Callable[[], Any] | None = None) -> Path:
    """Bring the files of a checkpoint in S3 to this machine, but those that are here already.

    Args:
        url: `s3://bucket/prefix`.
        cache: what is downloaded is kept here; processes that want the same checkpoint wait for each other.
        connect: makes boto3's client; None: as boto3's own configuration says.

    Returns:
        The checkpoint's directory.

    Raises:
        CheckpointError: no such bucket, no checkpoint below the prefix, access denied; AwayError: S3 can't be reached.
        OSError: the files can't be written.
    """
    with _bucket(url, connect) as (client, bucket, start):
        name = quote(f"{bucket}/{start.removesuffix('/')}", safe="")  # flat: a prefix may begin another's
        cache.mkdir(parents=True, exist_ok=True)
        with _lock(cache / f"{name}.lock"):
            objects = _list(client, bucket, start, url)
            folder, record = cache / name, cache / f"{name}.json"
            here = _tidy(folder, record, objects)
            for path in sorted(objects.keys() - here.keys()):
                log.info("downloading %s of %s: %.1f MB", path, url, objects[path]["bytes"] / 1e6)
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                # In parallel parts of one version of the object, under another name until it is whole.
                client.download_file(bucket, start + path, str(folder / path))
                here[path] = objects[path]
                _write(record, here)
    return folder


@contextmanager
def _bucket(url: str, connect: Callable[[], Any] | None) -> Iterator[tuple[Any, str, str]]:
    """Give boto3's client, the bucket, and what its keys begin with; say of their errors what `download` says."""
    bucket, _, prefix = url.removeprefix("s3://").strip("/").partition("/")
    if not bucket:
        raise CheckpointError(f"{url}: names no bucket, expected s3://bucket/prefix")
    try:
        client: Any = connect() if connect else boto3.client("s3")
    except (BotoCoreError, ProxyError) as error:
        raise CheckpointError(f"{url}: {one_line(error)}") from error
    try:
        yield client, bucket, f"{prefix}/" if prefix else ""
    except (ClientError, BotoCoreError, Boto3Error) as error:
        kind = AwayError if _may_pass(error) else CheckpointError
        raise kind(f"{url}{through(client.meta.endpoint_url)}: {_reason(error)}") from error


def _list(client: Any, bucket: str, start: str, url: str) -> Objects:
    """The checkpoint's files among the objects whose keys begin with `start`."""
    found = {}
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=start):
        for item in page.get("Contents", []):
            name = item["Key"].removeprefix(start)
            if _stays_below(name) and any(fnmatch(name, pattern) for pattern in CHECKPOINT_FILES):
                found[name] = {"etag": item["ETag"], "bytes": item["Size"]}
    if INDEX not in found:
        raise CheckpointError(f"{url}: no checkpoint, expected {INDEX} below this prefix")
    return found


def _stays_below(name: str) -> bool:
    """Whether a key's rest is a plain path of a file below a directory: no folder, nothing absolute, no `..`."""
    path = PurePosixPath(name)
    return str(path) == name and not path.is_absolute() and ".." not in path.parts


def _tidy(folder: Path, record: Path, objects: Objects) -> Objects:
    """Remove from `folder` what is none of `objects`: other versions, files that the bucket lost, halves of downloads.

    Returns:
        What is left, in the record too.
    """
    recorded = _read(record)
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    here = {
        name: objects[name]
        for name, path in files.items()
        if name in objects and recorded.get(name) == objects[name] and path.stat().st_size == objects[name]["bytes"]
    }
    _write(record, here)
    for name in files.keys() - here.keys():
        files[name].unlink()
    return here


def _read(record: Path) -> Objects:
    """What a record says; nothing if there is none, or a power cut left half of one."""
    try:
        recorded: Objects = json.loads(record.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return recorded


def _write(record: Path, objects: Objects) -> None:
    draft = record.with_suffix(".draft")
    draft.write_text(json.dumps(objects, indent=1), encoding="utf-8")
    draft.replace(record)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _may_pass(error: Exception) -> bool:
    """Whether it is none of the settings' fault: no answer, or one that says so."""
    if isinstance(error, ClientError):
        status: int = error.response["ResponseMetadata"]["HTTPStatusCode"]
        return status >= 500 or status in (408, 429)
    return isinstance(error, HTTPClientError | UnreachableError | RetriesExceededError)


def _reason(error: Exception) -> str:
    if isinstance(error, ClientError):
        code = error.response["Error"]["Code"]
        if code == "NoSuchBucket":
            return "no such bucket"
        if error.response["ResponseMetadata"]["HTTPStatusCode"] in (401, 403):
            return f"access denied ({code}): see AWS_ACCESS_KEY_ID and what it may read"
    return f"S3 does not give it: {one_line(error)}"
