"""Where files and objects are: S3's endpoints, regions, buckets, checkpoints and folders."""

import os
import re
from pathlib import Path

from pydantic import ValidationInfo

from jobs.addresses.servers import http_url

# As botocore has it: a name, or the ARN of an access point.
_BUCKET = re.compile(r"[A-Za-z0-9.\-_]{1,255}|arn:[^\s/]+[/:][^\s]+")


def s3_endpoint(url: str) -> str:
    """Check an endpoint of S3; return it without a slash at its end.

    Raises:
        ValueError: it is no URL over HTTP, or has more than host, port and a path.
    """
    if "@" in url:
        raise ValueError("must hold no user and password: S3's keys are AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    if "?" in url or "#" in url:
        raise ValueError("must end with its host, port or path, without ? and #: https://s3.example.com")
    http_url(url)
    from botocore.utils import is_valid_endpoint_url, is_valid_ipv6_endpoint_url  # which takes a while to import

    if re.search("[^!-~]", url) or not (is_valid_endpoint_url(url) or is_valid_ipv6_endpoint_url(url)):
        raise ValueError(
            "names a host that boto3 refuses: it may have letters, digits, dots and, within, hyphens, as in "
            "https://s3.example.com:9000; write others as an address, or in Punycode (xn--…)"
        )
    return url.rstrip("/")


def region(name: str) -> str:
    """Check the name of a region that requests are signed for; return it.

    Raises:
        ValueError: it can't be one.
    """
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?", name) or name.isdecimal():
        raise ValueError("must be the name of a region, as us-east-1, auto or garage")
    return name


def prefix(name: str) -> str:
    """Check what the keys of objects begin with; return it.

    Raises:
        ValueError: it is empty, or stores would read it as another path.
    """
    if {"", ".", ".."} & set(name.split("/")):
        raise ValueError("must be a name, or several with a slash between them, such as jobs or zimage/jobs")
    return name


def bucket(name: str, info: ValidationInfo) -> str:
    """Check a bucket's name, and that no endpoint ends with it; return it.

    Raises:
        ValueError: it can't be a bucket's, or an endpoint says it once more.
    """
    if not _BUCKET.fullmatch(name):
        raise ValueError("must be the bucket's name alone, such as zimage")
    for setting in ("s3_endpoint", "s3_public_endpoint"):
        if (info.data.get(setting) or "").endswith(f"/{name}"):
            raise ValueError(f"ZIMAGE_{setting.upper()} ends with the bucket, too: leave it out there")
    return name


def checkpoint(source: str) -> str:
    """Check how a checkpoint is named; return it. Whether it is there is for who loads it.

    Raises:
        ValueError: it is empty, a URL other than S3's, or names no bucket.
    """
    expected = "a directory, a hub id such as Tongyi-MAI/Z-Image-Turbo, or s3://bucket/prefix"
    if not source.strip():
        raise ValueError(f"is empty: name {expected}")
    if source.startswith("s3://"):
        if not _BUCKET.fullmatch(source.removeprefix("s3://").partition("/")[0]):
            raise ValueError("names no bucket, expected s3://bucket/prefix; keys are AWS_ACCESS_KEY_ID and so on")
    elif re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/", source):
        raise ValueError(f"must not be a URL: name {expected}")
    elif re.search("[?@]", source) and not source.startswith((".", "/", "~")) and not os.path.exists(source):
        raise ValueError(f"is no directory here, and no hub id has ? or @ in it: name {expected}")
    return source


def not_empty(name: object) -> object:
    """Refuse an empty path, which would be the working directory's; return others.

    Raises:
        ValueError: it is empty.
    """
    if isinstance(name, str) and not name.strip():
        raise ValueError("is empty: name a path, or unset it")
    return name


def revision(name: str) -> str:
    """Check the name of a hub's commit, tag or branch; return it. Whether it is there is for who loads it.

    Raises:
        ValueError: it can't be one.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][\w.-]*(/[\w-][\w.-]*)*", name, re.ASCII) or ".." in name:
        raise ValueError("must be a commit, tag or branch of the hub, such as v1.0 or 40 hexadecimal digits")
    return name


def folder(path: Path) -> Path:
    """Check a folder that is made where it is missing; return its path.

    Raises:
        ValueError: a file is in its place, or in that of a folder above it.
    """
    for place in (path, *path.parents):
        if os.path.exists(place):  # False where it can't be looked at, unlike Path's
            if not os.path.isdir(place):
                raise ValueError(f"{place} is a file: name a folder, such as /var/cache/zimage")
            break
    return path
