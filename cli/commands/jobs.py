"""`zimage submit, status, wait, cancel, list`: jobs of a service, over HTTP."""

import itertools
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from cli import options
from cli.bars import follow, state
from cli.exits import time_limit
from cli.job_options import describes_job
from cli.results import ended_badly, finish, print_json, print_skipped, print_timings, print_warnings
from cli.table import local_time, print_table, printable
from zimage import JobRequest
from zimage.contract import Job


@describes_job()
def submit(
    request: JobRequest, url: options.Url = None, key: options.Key = None, as_json: options.Json = False
) -> None:
    """Post a job and print its id."""
    with options.connect(url, key) as client:
        job = client.submit(request)
    if as_json:
        print_json(job)
    else:
        print_warnings(job["warnings"])
        print(job["id"])


def status(
    job_id: options.JobId, url: options.Url = None, key: options.Key = None, as_json: options.Json = False
) -> None:
    """Show a job."""
    with options.connect(url, key) as client:
        job = client.get(job_id)
    if as_json:
        print_json(job)
        return
    print(_line(job))
    print_warnings(job["warnings"])
    for image in job["images"]:
        print(image["url"])
    if job["images"]:
        print_timings(job["timings"])
        print_skipped(job["images"], job["progress"]["total"])
    elif job["error"]:
        print(ended_badly(job), file=sys.stderr)


def wait(
    job_id: options.JobId,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Save the images there.")] = None,
    timeout: options.WaitTimeout = None,
    url: options.Url = None,
    key: options.Key = None,
    as_json: options.Json = False,
) -> None:
    """Wait until a job has ended; print its images' URLs, or with --out the files."""
    with options.connect(url, key) as client, time_limit(timeout, job_id):
        finish(client, follow(client, job_id), out, as_json)


def cancel(
    job_id: options.JobId, url: options.Url = None, key: options.Key = None, as_json: options.Json = False
) -> None:
    """Cancel a job: at once while queued, before its next step while running."""
    with options.connect(url, key) as client:
        job = client.cancel(job_id)
    if as_json:
        print_json(job)
    else:
        print(state(job))


def list_jobs(
    status: Annotated[
        str | None, typer.Option(metavar="STATUS", help="queued, running, succeeded, failed, canceled or expired.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="How many.")] = 20,
    url: options.Url = None,
    key: options.Key = None,
    as_json: options.Json = False,
) -> None:
    """List jobs, newest first."""
    with options.connect(url, key) as client:
        jobs = list(itertools.islice(client.list(status, page_size=min(limit, 100)), limit))
    if as_json:
        print_json(jobs)
    elif sys.stdout.isatty():
        _print_table(jobs)
    else:
        for job in jobs:
            print(_line(job))


def _line(job: Job) -> str:
    asked, progress = job["input"], job["progress"]
    steps, size = f"{progress['step']}/{progress['total']}", f"{asked.get('width')}×{asked.get('height')}"
    return "\t".join((job["id"], state(job), job["created_at"], steps, size, printable(asked["prompt"])))


def _print_table(jobs: list[Job]) -> None:
    rows = []
    for job in jobs:
        accepted = local_time(datetime.fromisoformat(job["created_at"]))
        rows.append((job["id"], state(job), accepted, printable(job["input"]["prompt"])))
    print_table(("id", "status", "accepted", "prompt"), rows)
