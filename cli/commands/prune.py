"""`zimage prune`: removes objects from the bucket that no job needs. Talks to Redis and S3 itself."""

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options
from cli.checked_settings import load_settings
from cli.errors import UserError
from cli.results import print_json
from cli.servers import redis_client

if TYPE_CHECKING:
    from jobs.objects.pruning import Orphan, Pruner


def prune(
    older_than: Annotated[
        float, typer.Option(min=0, metavar="HOURS", help="Leave younger objects alone: they may be in use.")
    ] = 1.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what would be removed, remove nothing.")] = False,
    even_all: Annotated[
        bool, typer.Option("--even-all", help="Go on also when Redis knows none of the jobs in the bucket.")
    ] = False,
    as_json: options.Json = False,
    data: options.Running = None,
) -> None:
    """Remove from S3 what no job needs: objects of jobs that Redis doesn't know, and of attempts that lost."""
    from jobs.objects.images import ImageStore
    from jobs.objects.pruning import NothingKnownError, Pruner
    from jobs.objects.refusals import STORAGE_ERRORS, told
    from jobs.objects.removal import StillThereError

    settings = load_settings(data)
    images = ImageStore(settings)
    with redis_client(settings) as client:
        pruner = Pruner(client, images, settings)
        try:
            orphans = pruner.find(timedelta(hours=older_than), even_all=even_all)
            if dry_run:
                _tell("would be removed", orphans, as_json)
            else:
                _remove(pruner, orphans, as_json)
        except NothingKnownError:
            raise UserError(
                "Redis knows none of the jobs that have objects in the bucket, so nothing was removed: see "
                "ZIMAGE_REDIS_URL, ZIMAGE_REDIS_PREFIX and ZIMAGE_S3_BUCKET, or give --even-all if they are right"
            ) from None
        except StillThereError as error:
            raise UserError(f"{images.address}: {error}") from error
        except STORAGE_ERRORS as error:
            raise UserError(f"{images.address}: {told(error)}") from error


def _remove(pruner: "Pruner", orphans: "Sequence[Orphan]", as_json: bool) -> None:
    removed: list[Orphan] = []
    try:
        for batch in pruner.remove(orphans):
            removed += batch
    finally:  # S3 may fail half-way
        _tell("removed", removed, as_json)


def _tell(what: str, orphans: "Sequence[Orphan]", as_json: bool) -> None:
    sums = {
        name: {"objects": len(sizes), "bytes": sum(sizes)}
        for name, sizes in (
            ("all", [orphan.bytes for orphan in orphans]),
            ("unknown_jobs", [orphan.bytes for orphan in orphans if orphan.reason == "unknown_job"]),
            ("lost_attempts", [orphan.bytes for orphan in orphans if orphan.reason == "lost_attempt"]),
        )
    }
    if as_json:
        print_json(sums)
        return
    total, unknown, lost = (f"{part['objects']} objects ({part['bytes']:,} bytes)" for part in sums.values())
    print(f"{what}: {total}: {unknown} of jobs that Redis doesn't know, {lost} of lost attempts")
