"""The `zimage` command.

Exit codes: 0 done; 1 the service or this machine said no; 2 wrong usage or setting; 3 the job ended as failed, canceled
or expired; 4 gave up waiting; 130 interrupted. Errors are one line on stderr.

Commands import what they need when they run: torch takes seconds, and `zimage status` needs none of it.
"""

from pathlib import Path
from typing import Annotated, Literal

import typer

from cli.commands import dead, doctor, generate, jobs, keys, prune, up, webhooks
from cli.config import load_settings
from cli.errors import UserError
from cli.exits import ZImageGroup

EPILOG = (
    "Exit codes: 0 done · 1 the service or this machine said no · 2 wrong usage or setting · "
    "3 the job ended as failed, canceled or expired · 4 gave up waiting (--timeout) · 130 interrupted"
)

app = typer.Typer(
    cls=ZImageGroup,
    help="Images from Z-Image: run the service, ask it, or draw right here.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
checkpoint = typer.Typer(help="Make checkpoints.", no_args_is_help=True)
app.add_typer(checkpoint, name="checkpoint")
app.add_typer(dead.dead, name="dead")
app.add_typer(keys.keys, name="keys")
app.add_typer(webhooks.webhooks, name="webhooks")

app.command()(up.up)
app.command()(up.demo)
app.command()(generate.generate)
app.command()(jobs.submit)
app.command()(jobs.status)
app.command()(jobs.wait)
app.command()(jobs.cancel)
app.command("list")(jobs.list_jobs)
app.command()(doctor.doctor)
app.command()(prune.prune)


@app.command()
def api(
    host: Annotated[str | None, typer.Option(help="Address to listen on.  [env var: ZIMAGE_HOST]")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port.  [env var: ZIMAGE_PORT]")] = None,
) -> None:
    """Serve the HTTP API; Redis and S3 are where the settings say."""
    overrides = {"host": host, "port": port}
    settings = load_settings().model_copy(
        update={name: value for name, value in overrides.items() if value is not None}
    )
    from api.server import serve

    serve(settings)


@app.command()
def worker() -> None:
    """Draw the jobs of the queue; Redis, S3, model and device are what the settings say."""
    settings = load_settings()
    from worker.executor.kernel_cache import keep_kernels

    keep_kernels(settings.cache_dir)
    from worker.process import run

    raise typer.Exit(run(settings))


@checkpoint.command()
def random(
    directory: Annotated[Path, typer.Argument(help="Where to write it; must be new or empty.")],
    size: Annotated[Literal["tiny", "turbo"], typer.Option(help="turbo: the real size, 21 GB.")] = "tiny",
) -> None:
    """Write a checkpoint with random weights in the real layout: for tests of everything but beauty."""
    from pipeline.checkpoint.random import write_random_checkpoint

    try:
        write_random_checkpoint(directory, size)
    except FileExistsError as error:
        raise UserError(f"{error}: choose a new directory") from error
    print(directory)


@checkpoint.command()
def quantize(
    source: Annotated[str, typer.Argument(help="Any checkpoint that ZIMAGE_MODEL could name.")],
    target: Annotated[Path, typer.Argument(help="Where to write it; must be new or empty.")],
) -> None:
    """Write a checkpoint with its large matrices in fp8: half the size, and quicker to load. Needs no GPU."""
    settings = load_settings()
    from pipeline import CheckpointError
    from pipeline.checkpoint.quantized import write_quantized_checkpoint
    from worker.loading import find_checkpoint

    try:
        write_quantized_checkpoint(find_checkpoint(settings, source), target)
    except CheckpointError as error:
        raise UserError(str(error)) from error
    except FileExistsError as error:
        raise UserError(f"{error}: choose a new directory") from error
    print(target)


if __name__ == "__main__":
    app()
