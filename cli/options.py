"""Options that several commands share, and the job that they describe."""

from pathlib import Path
from typing import Annotated, Any, cast

import typer

from cli.errors import ExitCode, UserError
from zimage import JobRequest, ZImageClient

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

Prompt = Annotated[str, typer.Argument(help="What to draw.")]
NegativePrompt = Annotated[str | None, typer.Option(help="What to avoid; only with --guidance above 0.")]
Width = Annotated[int | None, typer.Option(help="Pixels, a multiple of 16.")]
Height = Annotated[int | None, typer.Option(help="Pixels, a multiple of 16.")]
Steps = Annotated[int | None, typer.Option(help="Denoising steps, 1 to 50.")]
Guidance = Annotated[float | None, typer.Option(help="Classifier-free guidance, 0 to 20; Turbo takes 0.")]
Seed = Annotated[int | None, typer.Option(help="The same seed draws the same picture; default: a random one.")]
NumImages = Annotated[int | None, typer.Option(help="How many, 1 to 8; image i is drawn from seed + i.")]
Priority = Annotated[str | None, typer.Option(metavar="high|normal|low", help="Place in the queue.")]
Deadline = Annotated[int | None, typer.Option(metavar="S", help="Seconds after which the job isn't worth finishing.")]
Metadata = Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="Kept with the job; repeatable.")]


def connect(url: str | None, key: str | None) -> ZImageClient:
    """Return a client of the service that the options name."""
    return ZImageClient(url or DEFAULT_URL, key)


def job_request(prompt: str, metadata: list[str] | None = None, **fields: Any) -> JobRequest:
    """Return the job that the options describe; what was not given is left to the service.

    Raises:
        UserError: metadata without a `=`.
    """
    request = {"prompt": prompt} | {name: value for name, value in fields.items() if value is not None}
    if metadata:
        pairs = [item.partition("=") for item in metadata]
        if not all(separator for _, separator, _ in pairs):
            raise UserError("--metadata takes NAME=VALUE", ExitCode.USAGE)
        request["metadata"] = {name: value for name, _, value in pairs}
    return cast("JobRequest", request)
