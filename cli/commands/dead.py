"""`zimage dead list, retry, drop`: jobs that lost worker after worker. Talks to Redis itself."""

import sys
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options
from cli.checked_settings import load_settings
from cli.chosen import act_on_each, chosen
from cli.results import print_json
from cli.servers import redis_client
from cli.table import local_time, print_table, printable, shortened

if TYPE_CHECKING:
    from celery import Celery

    from jobs.record import Job

dead = typer.Typer(help="Jobs that failed because they lost worker after worker.", no_args_is_help=True)

NOT_DEAD = "is no dead letter"

JobIds = Annotated[list[str] | None, typer.Argument(metavar="JOB…", help="Their ids.", show_default=False)]
All = Annotated[bool, typer.Option("--all", help="All dead letters.")]


@dead.command("list")
def list_dead(as_json: options.Json = False, data: options.Running = None) -> None:
    """List dead letters, the longest dead first."""
    from jobs.store.dead_letters import DeadLetters

    settings = load_settings(data)
    with redis_client(settings) as client:
        jobs = DeadLetters(client, settings).jobs()
    if as_json:
        fields = {"id", "finished_at", "attempt", "losses", "error", "input"}
        print_json([job.model_dump(mode="json", include=fields) for job in jobs])
    elif sys.stdout.isatty():
        rows = [_cells(job, local_time, job.input.prompt) for job in jobs]
        print_table(("id", "failed", "tries", "lost", "error", "prompt"), rows)
    else:
        for job in jobs:
            print("\t".join(_cells(job, datetime.isoformat, shortened(job.input.prompt))))


def _cells(job: "Job", written: Callable[[datetime], str], prompt: str) -> tuple[str, ...]:
    failed = written(job.finished_at) if job.finished_at else ""
    code = job.error.code if job.error else ""
    return job.id, failed, str(job.attempt), str(job.losses), code, printable(prompt)


@dead.command()
def retry(job_ids: JobIds = None, every: All = False, data: options.Running = None) -> None:
    """Queue dead letters again, with their losses forgiven; prints the id of each one queued."""
    from jobs.doorbell import celery_app
    from jobs.store.dead_letters import DeadLetters

    settings = load_settings(data)
    refusals = {"unknown": NOT_DEAD, "too_late": "its timeout_seconds have passed since it was accepted"}
    with redis_client(settings) as client, celery_app(settings) as bell:
        letters = DeadLetters(client, settings)

        def act(job_id: str) -> str | None:
            outcome = letters.retry(job_id)
            if outcome == "queued":
                _ring(bell)
            return refusals.get(outcome)

        act_on_each(chosen("jobs", job_ids, every, letters.ids), act)


def _ring(bell: "Celery") -> None:
    from kombu.exceptions import OperationalError

    from jobs.doorbell import ring

    try:
        ring(bell)
    except OperationalError as error:
        print(f"the doorbell was not rung ({error}): the reaper will ring it", file=sys.stderr)


@dead.command()
def drop(job_ids: JobIds = None, every: All = False, data: options.Running = None) -> None:
    """Take dead letters off the list; prints the id of each one dropped. The jobs stay failed."""
    from jobs.store.dead_letters import DeadLetters

    settings = load_settings(data)
    with redis_client(settings) as client:
        letters = DeadLetters(client, settings)

        def act(job_id: str) -> str | None:
            return None if letters.drop(job_id) else NOT_DEAD

        act_on_each(chosen("jobs", job_ids, every, letters.ids), act)
