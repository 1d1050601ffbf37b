"""`zimage api, worker`: the two programs, each for a machine or container of its own."""

import sys
from typing import Annotated

import typer

from cli.checked_settings import load_settings
from jobs.exit_codes import ProgramExit


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
    try:
        from worker.process import run
    except ModuleNotFoundError:
        raise
    except (ImportError, OSError) as error:  # a library of torch's: of another version, or not there
        told = f"{error}: the installation is not whole: pip install --force-reinstall 'zimage-service[worker]'"
        print(f"zimage worker: {' '.join(told.split())}", file=sys.stderr)
        raise typer.Exit(ProgramExit.UNFIT_MACHINE) from error

    raise typer.Exit(run(settings))
