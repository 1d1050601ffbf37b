"""The `zimage` command.

Exit codes: 0 done; 1 the service or this machine said no; 2 wrong usage or setting; 3 the job ended as failed, canceled
or expired; 4 gave up waiting; 130 interrupted; of the programs those of `jobs.exit_codes`. Errors are one line on
stderr.

Commands import what they need when they run: torch takes seconds, and `zimage status` needs none of it.
"""

import sys

from cli import early_signals

early_signals.hear(sys.argv[1:])  # before anything else is imported, which takes seconds

import typer  # noqa: E402

from cli.commands import checkpoint, configure, dead, doctor, generate, jobs, keys, programs, prune, up, webhooks  # noqa: E402
from cli.exits import ZImageGroup  # noqa: E402

EPILOG = (
    "Exit codes: 0 done · 1 the service or this machine said no · 2 wrong usage or setting · "
    "3 the job ended as failed, canceled or expired · 4 gave up waiting (--timeout) · 130 interrupted · "
    "of `zimage worker` also 69 this machine can't · 70 broken GPU"
)

app = typer.Typer(
    cls=ZImageGroup,
    help="Images from Z-Image: run the service, ask it, or draw right here.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(checkpoint.checkpoint, name="checkpoint")
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
app.command()(configure.configure)
app.command()(doctor.doctor)
app.command()(prune.prune)
app.command()(programs.api)
app.command()(programs.worker)


if __name__ == "__main__":
    app()
