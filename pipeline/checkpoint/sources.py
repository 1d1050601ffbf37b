"""Where a checkpoint comes from: a directory, an id of the hub, or a bucket; what is remote is downloaded first."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from network.proxies import ProxyError, all_variables, place
from pipeline.checkpoint.config import CheckpointError, one_line
from pipeline.checkpoint.files import CHECKPOINT_FILES

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
S3_SCHEME = "s3://"


def locate(
    path_or_id: str | Path, *, cache_dir: Path | None = None, connect_s3: Callable[[], Any] | None = None
) -> Path:
    """The checkpoint's directory, after a download if need be.

    Args:
        path_or_id: a directory, a hub id such as `Tongyi-MAI/Z-Image-Turbo`, or `s3://bucket/prefix`.
        cache_dir: where what comes from S3 is kept; None: `zimage` in the user's cache directory. The hub has its own.
        connect_s3: makes boto3's client; None: as boto3's own configuration says.

    Raises:
        CheckpointError: there is no such directory, repository, bucket or prefix, or it can't be reached.
    """
    name = str(path_or_id)
    path = Path(path_or_id)
    if name.startswith(S3_SCHEME):
        from pipeline.checkpoint.s3 import download

        return download(name, (cache_dir or _user_cache()) / "s3", connect_s3)
    if path.is_dir():
        return path
    if path.exists() or not HUB_ID.fullmatch(name):
        raise CheckpointError(
            f"{name}: no such directory, expected a checkpoint directory, a hub id org/name or s3://bucket/prefix"
        )
    return _from_hub(name)


def _from_hub(name: str) -> Path:
    endpoint = os.environ.get("HF_ENDPOINT")
    server = place(endpoint) if endpoint else None
    if endpoint and not (server and server.startswith(("http://", "https://"))):
        raise CheckpointError(f"{name}: the hub can't be asked: HF_ENDPOINT names no server: expected https://HOST")
    from huggingface_hub import snapshot_download

    settings = [f"HF_ENDPOINT={server}"] if server else []
    try:
        settings += all_variables()  # the hub's library reads them by itself
        return Path(snapshot_download(name, allow_patterns=list(CHECKPOINT_FILES)))
    except ProxyError as error:
        raise CheckpointError(f"{name}: the hub can't be asked: {error}") from None
    except Exception as error:  # its library lets through what httpx, httpx2 and SOCKS raise
        told = f" (with {', '.join(settings)})" if settings else ""
        said = re.sub(r"://\S*@", "://***@", one_line(error))  # HF_ENDPOINT may hold a password
        raise CheckpointError(f"{name}: no such directory, and no such hub id: {said}{told}") from error


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "zimage"
