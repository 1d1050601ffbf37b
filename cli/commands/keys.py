"""`zimage keys create, list, revoke`: the file of API keys. The API notices a change by itself."""

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


@keys.command()
def create(name: Name, file: File = None, rate: Rate = None, in_flight: InFlight = None) -> None:
    """Make a key and print it: this once, since only its digest is kept."""
    with _keys_file(file) as keys_file:
        print(keys_file.create(name, rate, in_flight))


@keys.command("list")
def list_keys(file: File = None, as_json: options.Json = False) -> None:
    """List the keys, by name: their limits and when they were made."""
    with _keys_file(file) as keys_file:
        found = keys_file.read()
    if as_json:
        print_json([key.model_dump(mode="json", exclude={"sha256"}) for key in found])
        return
    for key in found:
        rate = f"{key.rate}/min" if key.rate else "any rate"
        in_flight = f"{key.in_flight} in flight" if key.in_flight else "any number in flight"
        print(f"{key.name}\t{rate}\t{in_flight}\t{key.created_at.isoformat(timespec='seconds')}")


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
