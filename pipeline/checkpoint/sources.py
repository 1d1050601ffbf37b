"""Where a checkpoint comes from: a directory, an id of the hub, or a bucket; what is remote is downloaded first."""

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from network.proxies import ProxyError, all_variables, place
from pipeline.checkpoint.config import AwayError, CheckpointError, NoRoomError, one_line
from pipeline.checkpoint.files import CHECKPOINT_FILES

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
COMMIT = re.compile(r"[0-9a-f]{40}")
S3_SCHEME = "s3://"
NO_ROOM = os.strerror(errno.ENOSPC)


def locate(
    path_or_id: str | Path,
    *,
    revision: str | None = None,
    cache_dir: Path | None = None,
    connect_s3: Callable[[], Any] | None = None,
) -> Path:
    """The checkpoint's directory, after a download if need be.

    Args:
        path_or_id: a directory, a hub id such as `Tongyi-MAI/Z-Image-Turbo`, or `s3://bucket/prefix`.
        revision: commit, tag or branch of a hub id; None: `main`.
        cache_dir: where what comes from S3 is kept; None: `zimage` in the user's cache directory. The hub has its own.
        connect_s3: makes boto3's client; None: as boto3's own configuration says.

    Raises:
        CheckpointError: there is no such directory, repository, revision, bucket or prefix, or it has no revisions;
            AwayError: it can't be reached now; NoRoomError: there is no room for it in the hub's cache.
        OSError: the cache of what comes from S3 can't be written.
    """
    name = str(path_or_id)
    if is_hub_id(name, revision):
        return _from_hub(name, revision)
    if name.startswith(S3_SCHEME):
        from pipeline.checkpoint.s3 import download

        return download(name, (cache_dir or _user_cache()) / "s3", connect_s3)
    if Path(name).is_dir():
        return Path(name)
    raise CheckpointError(
        f"{name}: no such directory, expected a checkpoint directory, a hub id org/name or s3://bucket/prefix"
    )


def is_hub_id(name: str, revision: str | None = None) -> bool:
    """Tell whether a name is a hub id, and not the path of something here.

    Raises:
        CheckpointError: it is not, and a revision is asked for.
    """
    if HUB_ID.fullmatch(name) and not Path(name).exists():
        return True
    if revision:
        raise CheckpointError(f"{name}: there is no revision {revision} of it: only a hub id org/name has revisions")
    return False


def commit_of(root: Path) -> str | None:
    """The commit that a checkpoint's directory in the hub's cache has; None: it is another directory."""
    return root.name if root.parent.name == "snapshots" and COMMIT.fullmatch(root.name) else None


def _from_hub(name: str, revision: str | None) -> Path:
    endpoint = os.environ.get("HF_ENDPOINT")
    server = place(endpoint) if endpoint else None
    if endpoint and not (server and server.startswith(("http://", "https://"))):
        raise CheckpointError(f"{name}: the hub can't be asked: HF_ENDPOINT names no server: expected https://HOST")
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import RevisionNotFoundError

    settings = [f"HF_ENDPOINT={server}"] if server else []
    try:
        settings += all_variables()  # the hub's library reads them by itself
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(CHECKPOINT_FILES)))
    except ProxyError as error:
        raise CheckpointError(f"{name}: the hub can't be asked: {error}") from None
    except Exception as error:  # its library lets through what httpx, httpx2, SOCKS and its Rust raise
        wanted = f"its revision {revision}" if revision else "it"
        said = re.sub(r"://\S*@", "://***@", one_line(error))  # HF_ENDPOINT may hold a password
        if reason := _disk_fault(error):
            kind = NoRoomError if reason == NO_ROOM else CheckpointError
            raise kind(f"{name}: can't be kept in {constants.HF_HUB_CACHE} (HF_HOME): {reason}") from error
        if constants.HF_HUB_OFFLINE and not isinstance(error, ValueError):
            raise CheckpointError(
                f"{name}: no such directory, and no such hub id: its cache {constants.HF_HUB_CACHE} (HF_HOME) lacks "
                f"{wanted}, or files of it, and HF_HUB_OFFLINE keeps the hub from being asked: {said}"
            ) from error
        told = f" (with {', '.join(settings)})" if settings else ""
        if isinstance(error, RevisionNotFoundError):
            raise CheckpointError(f"{name}: the hub has it, but not {wanted}: {said}{told}") from error
        if _is_refusal(error):
            raise CheckpointError(f"{name}: no such directory, and no such hub id: {said}{told}") from error
        raise AwayError(f"{name}: no such directory, and the hub does not give it: {said}{told}") from error


def _is_refusal(error: Exception) -> bool:
    """Whether the hub, or its library, said no for good: no such id, not for this token, no id at all."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status in (400, 401, 403, 404, 410) or isinstance(error, ValueError)


def _disk_fault(error: Exception) -> str | None:
    """What is wrong with the disk that a download goes to; None: nothing. Rust tells of it by words alone."""
    number = error.errno if isinstance(error, OSError) else None
    if found := re.search(r"\(os error (\d+)\)", str(error)):
        number = int(found[1])
    if number in (errno.ENOSPC, errno.EDQUOT):
        return NO_ROOM
    return os.strerror(number) if number in (errno.EACCES, errno.EPERM, errno.EROFS) else None


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "zimage"
