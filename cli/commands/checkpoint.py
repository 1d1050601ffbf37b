"""`zimage checkpoint random, quantize`: makes checkpoints. Needs no service and no GPU."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from cli.checked_settings import load_settings
from cli.errors import UserError

checkpoint = typer.Typer(help="Make checkpoints.", no_args_is_help=True)


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
    settings = load_settings(model=source)
    from pipeline import CheckpointError
    from pipeline.checkpoint.quantized import write_quantized_checkpoint
    from worker.loading import find_checkpoint

    try:
        write_quantized_checkpoint(find_checkpoint(settings, settings.model, settings.model_revision), target)
    except CheckpointError as error:
        raise UserError(str(error)) from error
    except FileExistsError as error:
        raise UserError(f"{error}: choose a new directory") from error
    print(target)
