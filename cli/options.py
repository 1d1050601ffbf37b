"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from zimage import ZImageClient

DEFAULT_DATA = Path(".zimage")
DEFAULT_URL = "http://127.0.0.1:8000"

Url = Annotated[str | None, typer.Option("--url", envvar="ZIMAGE_URL", help=f"Service; default {DEFAULT_URL}.")]
Key = Annotated[str | None, typer.Option("--key", envvar="ZIMAGE_API_KEY", help="API key.", show_envvar=True)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")]
JobId = Annotated[str, typer.Argument(metavar="ID", help="The job's id.")]
WaitTimeout = Annotated[float | None, typer.Option("--timeout", min=0, metavar="S", help="Give up after S s.")]
Running = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="That of a running `zimage up`; default: what the settings name."),
]
Data = Annotated[Path, typer.Option("--data", metavar="DIR", help="Where servers keep data and logs.")]


def connect(url: str | None, key: str | None) -> ZImageClient:
    """Return a client of the service that the options name."""
    return ZImageClient(url or DEFAULT_URL, key)
