"""`zimage keys create, list, secret, revoke`: the file of API keys. The API notices a change by itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options
from cli.checked_settings import load_settings
from cli.errors import ExitCode, UserError
from cli.results import print_json

if TYPE_CHECKING:
    from jobs.keys import KeysFile

keys = typer.Typer(help="API keys; the file holds only their digests.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Whose key it is: owner of the jobs, and a label in metrics.")]
File = Annotated[Path | None, typer.Option("--file", help="Keys file.  [env var: ZIMAGE_API_KEYS_FILE]")]
Rate = Annotated[int | None, typer.Option(min=1, help="Submits per minute; default: any number.")]
InFlight = Annotated[int | None, typer.Option(min=1, help="Jobs queued or running at once; default: any number.")]
Work = Annotated[
    int | None,
    typer.Option(min=1, help="Pixels x steps x images per minute, twice that with guidance; default: any number."),
]
Share = Annotated[float, typer.Option(help="Part of queue and memory that it can fill when it is alone, above 0 to 1.")]
Weight = Annotated[float, typer.Option(help="A key of weight 2 gets twice the work of one of weight 1; 0.01 to 100.")]
Rotate = Annotated[bool, typer.Option("--rotate", help="Make another one; that before it signs too, until --finish.")]
Finish = Annotated[bool, typer.Option("--finish", help="End a rotation: from now on the newest one signs alone.")]


@keys.command()
def create(
    name: Name,
    file: File = None,
    rate: Rate = None,
    work: Work = None,
    in_flight: InFlight = None,
    share: Share = 0.5,
    weight: Weight = 1.0,
) -> None:
    """Make a key and print it: this once, since only its digest is kept."""
    from pydantic import ValidationError

    from jobs.limits import Limits

    try:
        limits = Limits(rate=rate, work=work, in_flight=in_flight, share=share, weight=weight)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"--{first['loc'][0]}: {first['msg']}", ExitCode.USAGE) from None
    with _keys_file(file) as keys_file:
        print(keys_file.create(name, limits))


@keys.command("list")
def list_keys(file: File = None, as_json: options.Json = False) -> None:
    """List the keys, by name: their limits and when they were made."""
    with _keys_file(file) as keys_file:
        found = keys_file.read()
    if as_json:
        print_json([key.model_dump(mode="json", exclude={"sha256"}) for key in found])
        return
    for key in found:
        told = [
            f"{key.rate}/min" if key.rate else "any rate",
            f"{key.work:,} work/min" if key.work else "any work",
            f"{key.in_flight} in flight" if key.in_flight else "any number in flight",
            f"share {key.share:g}, weight {key.weight:g}",
            key.created_at.isoformat(timespec="seconds"),
        ]
        if len(key.secret_versions) > 1:
            told.append("webhook secret being rotated")
        print(key.name, *told, sep="\t")


@keys.command()
def secret(name: Name, rotate: Rotate = False, finish: Finish = False, file: File = None) -> None:
    """Print the secret that a key's webhooks are verified with; it needs the API's ZIMAGE_WEBHOOK_SECRET."""
    from jobs.webhook_secrets import secrets_of

    if rotate and finish:
        raise UserError("--rotate or --finish: not both at once", ExitCode.USAGE)
    service_secret = load_settings().webhook_secret
    if service_secret is None:
        told = "ZIMAGE_WEBHOOK_SECRET is not set: webhook secrets are made of it: set the one that the API has"
        raise UserError(told, ExitCode.USAGE)
    with _keys_file(file) as keys_file:
        if rotate:
            keys_file.rotate_secret(name)
        elif finish:
            keys_file.finish_rotation(name)
        newest, *_ = secrets_of(keys_file.find(name), service_secret.get_secret_value())
    print(newest)


@keys.command()
def revoke(name: Name, file: File = None) -> None:
    """Remove a key: who uses it is refused from now on. Its jobs stay."""
    with _keys_file(file) as keys_file:
        keys_file.revoke(name)
    print(name)


@contextmanager
def _keys_file(file: Path | None) -> Iterator["KeysFile"]:
    """Give the file that the option or the setting names; what is wrong with it becomes the user's error."""
    from jobs.keys import KeysFile, KeysFileError

    path = file or load_settings().api_keys_file
    if path is None:
        raise UserError("name the keys file: --file, or ZIMAGE_API_KEYS_FILE, which the API reads too", ExitCode.USAGE)
    try:
        yield KeysFile(path)
    except KeysFileError as error:
        raise UserError(str(error)) from None
