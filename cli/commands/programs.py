"""`zimage api, worker`: the two programs, each for a machine or container of its own."""

from typing import Annotated

import typer

from cli.checked_settings import load_settings


def api(
    host: Annotated[str | None, typer.Option(help="Address to listen on.  [env var: ZIMAGE_HOST]")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port.  [env var: ZIMAGE_PORT]")] = None,
) -> None:
    """Serve the HTTP API; Redis and S3 are where the settings say."""
    settings = load_settings(host=host, port=port)
    from api.server import serve

    serve(settings)


def worker() -> None:
    """Draw the jobs of the queue; Redis, S3, model and device are what the settings say."""
    settings = load_settings()
    from worker.process import run

    raise typer.Exit(run(settings))
