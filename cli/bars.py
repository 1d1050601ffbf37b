"""Progress on stderr: a bar on a terminal, plain lines when piped."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from zimage import Job, ZImageClient


class Report(Protocol):
    """Tells how far something is."""

    def __call__(self, state: str, step: int, total: int) -> None:
        """Show a state and how many of its steps are done."""


@contextmanager
def progress_report() -> Iterator[Report]:
    """Give a function that shows progress as long as the context lasts."""
    if not sys.stderr.isatty():
        yield _plain_lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=None)
        yield lambda state, step, total: bar.update(task, description=state, completed=step, total=total)


def _plain_lines() -> Report:
    shown = ""

    def show(state: str, step: int, total: int) -> None:
        nonlocal shown
        line = f"{state} {step}/{total}" if step else state
        if line != shown:
            shown = line
            print(line, file=sys.stderr, flush=True)

    return show


def follow(client: ZImageClient, job_id: str) -> Job:
    """Show a job's progress until it ends, and return it.

    Raises:
        ServiceError: the service refused or could not be reached.
    """
    with progress_report() as report:
        for job in client.progress(job_id):
            report(_place(job), job["progress"]["step"], job["progress"]["total"])
    return job


def state(job: Job) -> str:
    """Return a job's status; `canceling` once its client has canceled what is running (services of 0.2 don't tell)."""
    return "canceling" if job["status"] == "running" and job.get("cancel_requested") else job["status"]


def _place(job: Job) -> str:
    place = job["queue"]
    if place is None:
        return state(job)
    eta = place["eta_seconds"]
    return f"queued, position {place['position']}" + (f", starts in {eta:.0f} s" if eta is not None else "")
