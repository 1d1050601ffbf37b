"""`zimage up` and `zimage demo`: the embedded stack, kept running or for one picture."""

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from cli import options
from cli.bars import follow
from cli.checked_settings import load_settings
from cli.errors import ExitCode, UserError
from cli.exits import orderly_interrupts, time_limit
from cli.results import ended_badly, print_timings, save_images
from zimage import JobRequest, ZImageClient

DEMO_JOB: JobRequest = {
    "prompt": "a yellow star above a red heart on a gradient from blue to purple",
    "width": 128,  # most of the bundled model's training was at this size
    "height": 128,
}
DEMO_SECONDS = 120


def _report_parts() -> None:
    logging.basicConfig(format="zimage: %(message)s", stream=sys.stderr)


def up(
    host: Annotated[str | None, typer.Option(help="Address of the API.  [env var: ZIMAGE_HOST]")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port of the API; 0: any free one.  [env var: ZIMAGE_PORT]")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, metavar="N", help="How many workers; each takes a GPU.")] = 1,
    model: Annotated[str | None, typer.Option(help="What the workers draw with.  [env var: ZIMAGE_MODEL]")] = None,
    data: options.Data = options.DEFAULT_DATA,
) -> None:
    """Run everything here: Redis, S3, API and workers. Prints `ready URL`; ends in order at Ctrl-C or SIGTERM."""
    from cli.stack import Stack

    _report_parts()
    settings = load_settings(host=host, port=port, model=model)
    stack = Stack(data, workers=workers, model=model, host=settings.host, port=settings.port)
    print(f"zimage: data and logs are in {stack.data_dir}", file=sys.stderr)
    with orderly_interrupts():
        try:
            with stack:
                print(f"ready {stack.listen_url}", flush=True)
                reason = stack.wait()
        except KeyboardInterrupt:
            print("zimage: stopped", file=sys.stderr)
            return
    raise UserError(reason)


def demo(
    data: options.Data = options.DEFAULT_DATA,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the picture goes.")] = Path("out"),
) -> None:
    """Run everything for one picture by the bundled model, then stop it."""
    from cli.stack import Stack

    _report_parts()
    load_settings()
    print("zimage: starting Valkey, SeaweedFS, the API and a worker", file=sys.stderr)
    with orderly_interrupts(), Stack(data, model="tiny") as stack, ZImageClient(stack.api_url) as client:
        stack.wait_for_worker()
        print(f"zimage: the API is at {stack.api_url}; it gets: {DEMO_JOB['prompt']}", file=sys.stderr)
        job_id = client.submit(DEMO_JOB)["id"]
        with time_limit(DEMO_SECONDS, job_id):
            job = follow(client, job_id)
        if job["status"] != "succeeded":
            raise UserError(ended_badly(job), ExitCode.JOB_FAILED)
        paths = save_images(client, job, out)
        print_timings(job["timings"])
        for image, path in zip(job["images"], paths, strict=True):
            print(f"S3 URL, while the stack ran: {image['url']}")
            print(f"picture: {path}")
        print("The bundled model knows shapes, colours and words. `zimage up --model DIR` serves another one.")
