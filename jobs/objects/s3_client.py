"""Connections to S3, set up so that a dead one is noticed within seconds and that stores other than AWS understand."""

import base64
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from jobs.addresses import SettingError
from jobs.addresses.storage import s3_endpoint
from jobs.settings import Settings
from network.proxies import ProxyError, proxy_for

ATTEMPTS = 5  # at a request, unless the caller tries again by itself


def connect(settings: Settings, endpoint: str | None, attempts: int = ATTEMPTS, *, only_signs: bool = False) -> Any:
    """Return a client for the S3 at `endpoint`; it connects at its first request.

    Its type is Any, since the typed client comes from stubs that only the checks install.

    Args:
        settings: the region.
        endpoint: of S3; None: what boto3's own variables and files name, or AWS.
        attempts: at a request.
        only_signs: it is never to connect, so that it doesn't matter by which proxy it would.

    Raises:
        jobs.addresses.SettingError: boto3's own variables or files say what can't be used.
        network.proxies.ProxyError: the environment names a proxy for it that can't be used.
    """
    proxies = {} if only_signs else _proxies(endpoint or _endpoint_of_boto3(settings))
    with usable_configuration():
        client: Any = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name=settings.s3_region,
            config=Config(
                signature_version="s3v4",
                s3={"addressing_style": "path"} if endpoint else None,
                connect_timeout=3,
                read_timeout=10,
                max_pool_connections=32,
                proxies=proxies,
                retries={"mode": "standard", "total_max_attempts": attempts},
                # Stores other than AWS don't all know the newer default checksums.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )
    client._make_api_call = _with_errors_of_its_own(client._make_api_call)
    client.generate_presigned_url = _with_errors_of_its_own(client.generate_presigned_url)
    client.meta.events.register("before-sign.s3.DeleteObjects", _digest_as_every_store_knows_it)
    if endpoint:
        client.meta.events.register("before-call.s3", _keep_to_the_region)
    return client


class UnforeseenError(BotoCoreError):
    """botocore failed by an error that is none of its own."""

    fmt = "boto3 failed ({error}): see its AWS_… variables and files, and whether ZIMAGE_S3_ENDPOINT is S3"


def _with_errors_of_its_own(call: Callable[..., Any]) -> Callable[..., Any]:
    """Turn what a client lets through, from credential helpers or answers that are not S3's, into its own errors."""

    def told(*arguments: Any, **options: Any) -> Any:
        try:
            return call(*arguments, **options)
        except (BotoCoreError, ClientError):  # some of them are OSErrors, too
            raise
        except (ValueError, LookupError, OSError) as error:
            file = getattr(error, "filename", None)
            raise UnforeseenError(error=": ".join(filter(None, (type(error).__name__, file)))) from error

    return told


@contextmanager
def usable_configuration() -> Iterator[None]:
    """Turn what boto3 stumbles over in its own variables and files, when it makes a client, into a `SettingError`."""
    try:
        yield
    except BotoCoreError as error:  # no such profile, a file that can't be read
        said = re.sub(r"\S*@", "***@", " ".join(str(error).split())).rstrip(" .:")
        raise SettingError(f"boto3's AWS_… variables or files can't be used: {said}") from None
    except OSError as error:  # of the program or the token file that credentials come from
        fault = f"{error.filename or 'the source of the credentials'}: {error.strerror}"
        raise SettingError(f"boto3's AWS_… variables or files can't be used: {fault}") from None
    except ValueError:  # whose text may repeat a password
        fault = (
            "one holds an address or a number that can't be read, such as an endpoint_url without a host, or names a "
            "program that prints no credentials"
        )
        raise SettingError(f"boto3's AWS_… variables or files can't be used: {fault}") from None


def _endpoint_of_boto3(settings: Settings) -> str:
    """Return the endpoint that boto3's own variables and files name, AWS' where they name none."""
    named = endpoint_variable()
    if named is None:
        with usable_configuration():
            url: str = boto3.client("s3", region_name=settings.s3_region).meta.endpoint_url
    else:
        url = os.environ[named]
    try:
        return s3_endpoint(url)
    except ValueError as error:
        raise SettingError(f"{named or 'endpoint_url in a file of boto3'}: {error}") from None


def endpoint_variable() -> str | None:
    """Return the variable of boto3's own that names an endpoint; None: there is none, or it is not to be read."""
    if os.environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() == "true":
        return None
    return next((name for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL") if os.environ.get(name)), None)


def _proxies(server: str) -> dict[str, str]:
    proxy = proxy_for(server)
    if proxy is None:
        return {}
    parts = urlsplit(server)
    if proxy.is_socks:
        advice = f"name an HTTP proxy, or {parts.hostname} in NO_PROXY"
        raise ProxyError(f"{proxy}: S3 can't be reached through SOCKS: {advice}")
    return {parts.scheme: proxy.url}


def _digest_as_every_store_knows_it(request: AWSRequest, **_: Any) -> None:
    """Send `Content-MD5` with a list of objects to remove, which must have a digest.

    botocore's own is a CRC32 since 1.36. AWS takes both, most stores of before 2025 the older one alone.
    """
    for name in [name for name in request.headers if name.lower().startswith(("x-amz-checksum", "x-amz-sdk-checksum"))]:
        del request.headers[name]
    digest = hashlib.md5(request.data or b"", usedforsecurity=False).digest()
    request.headers["Content-MD5"] = base64.b64encode(digest).decode()


def _keep_to_the_region(params: dict[str, Any], **_: Any) -> None:
    """Let a store that wants another region say so.

    botocore would sign once more for the region that the answer names, which works but for presigned URLs: they get no
    answer to learn from.
    """
    params["context"].setdefault("s3_redirect", {})["redirected"] = True
