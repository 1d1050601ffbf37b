"""`zimage generate`: a picture now, from a service or, without one, drawn in this process."""

import hashlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError

from cli import options
from cli.bars import follow, progress_report
from cli.checked_settings import load_settings
from cli.errors import ExitCode, UserError
from cli.exits import time_limit
from cli.job_options import describes_job
from cli.results import finish, output_path, print_json, print_skipped, print_timings, print_warnings, write_file
from jobs import spec
from jobs.model_card import TINY, layers, served_name, size_limits, size_warnings
from jobs.spec import JobInput
from jobs.step_cache import if_it_fits
from zimage import JobRequest

if TYPE_CHECKING:
    import torch

    from jobs.settings import Settings
    from pipeline import Generation


@describes_job("timeout_seconds")
def generate(
    request: JobRequest,
    out: Annotated[Path, typer.Option(metavar="FILE|DIR", help="A .png file or a folder.")] = Path("out"),
    model: Annotated[str | None, typer.Option(help="ZIMAGE_MODEL; only without a service.")] = None,
    timeout: options.WaitTimeout = None,
    url: Annotated[str | None, typer.Option("--url", envvar="ZIMAGE_URL", help="Service; without: here.")] = None,
    key: options.Key = None,
    as_json: options.Json = False,
) -> None:
    """Draw a picture and print its file. With --url or ZIMAGE_URL a service draws, else this process."""
    if url is None:
        _draw_here(request, model, out, as_json)
        return
    if model is not None:
        raise UserError("--model chooses what this process draws with; a service has its own", ExitCode.USAGE)
    with options.connect(url, key) as client:
        job = client.submit(request)
        print_warnings(job["warnings"])
        with time_limit(timeout, job["id"]):
            finish(client, follow(client, job["id"]), out, as_json, job["warnings"])


def _draw_here(request: JobRequest, model: str | None, out: Path, as_json: bool) -> None:
    settings = load_settings(model=model)
    name = served_name(settings.model)
    job = _checked(request, name, settings)
    known = [*job.warnings, *size_warnings(name, job.width, job.height)]
    print_warnings(known)
    generation = _draw(settings, job)
    told = {
        "model": name,
        "input": job.model_dump(),
        "images": _save(generation, job, name, out),
        "timings": generation.timings,
        "peak_vram_bytes": generation.peak_vram_bytes,
        "warnings": list(dict.fromkeys([*known, *generation.warnings])),
    }
    if as_json:
        print_json(told)
    else:
        _print(told, known)


def _checked(request: JobRequest, model: str, settings: "Settings") -> JobInput:
    """Return the request as a service would fill it in: with the model's size, the settings' step cache, a seed."""
    side = size_limits(model).default_size
    try:
        asked = spec.JobRequest.model_validate({"seed": spec.random_seed(), **request})
        return asked.complete(side, side, if_it_fits(settings.step_cache, asked.num_inference_steps, layers(model)))
    except ValidationError as error:
        wrong = [
            (".".join(map(str, item["loc"])), item["msg"].removeprefix("Value error, ")) for item in error.errors()
        ]
        raise UserError("; ".join(f"{field}: {told}" for field, told in wrong), ExitCode.USAGE) from None


def _draw(settings: "Settings", job: JobInput) -> "Generation":
    """Load the model and draw; return what came of it."""
    from pipeline import Drawing
    from worker.executor.device_choice import choose_device
    from worker.loading import load_pipeline

    with progress_report() as report:
        report(f"loading {settings.model}", 0, job.num_inference_steps)

        def on_step(step: int, total: int) -> None:
            report("drawing", step, total)

        settings = _on_the_cpu_if_need_be(settings)
        with _told_in_one_line(settings, None):
            device = choose_device(settings, settings.startup_timeout)
        with _told_in_one_line(settings, device):
            pipeline, *_ = load_pipeline(settings, device)
            drawing = Drawing(**job.picture(), seed=job.seed or 0, num_images=job.num_images, on_step=on_step)
            try:
                return pipeline.generate(drawing)
            except ValueError as error:
                raise UserError(str(error)) from error


def _on_the_cpu_if_need_be(settings: "Settings") -> "Settings":
    """Have any model drawn on the CPU where there is no GPU: a worker would lose jobs so, who waits here sees it."""
    from pipeline.driver import why_none

    if settings.device != "auto" or not (why := why_none()):
        return settings
    if served_name(settings.model) != TINY:
        print(f"zimage: {why}: drawing on the CPU, slowly", file=sys.stderr)
    return settings.model_copy(update={"device": "cpu"})


@contextmanager
def _told_in_one_line(settings: "Settings", device: "torch.device | None") -> Iterator[None]:
    from pipeline import CheckpointError
    from worker.obstacles import obstacle

    try:
        yield
    except UserError:
        raise
    except CheckpointError as error:
        raise UserError(str(error)) from error
    except ValueError as error:  # a setting that this machine can't follow
        raise UserError(f"wrong setting: {error}", ExitCode.USAGE) from error
    except Exception as error:
        found = obstacle(error, settings, device)
        if found is None:
            raise
        raise UserError(found.line) from error


def _save(generation: "Generation", job: JobInput, model: str, out: Path) -> list[dict[str, Any]]:
    """Write the images as PNGs; return what is told of each."""
    from worker.png import encode_png
    from worker.png_parameters import image_parameters

    images = []
    for index, (image, skipped) in enumerate(zip(generation.images.numpy(), generation.steps_skipped, strict=True)):
        parameters = image_parameters(job, model, index, skipped)
        png = encode_png(image, parameters)
        path = write_file(output_path(out, f"zimage-{job.seed}", index, job.num_images), png)
        told = {"index": index, "seed": parameters["seed"], "path": str(path), "bytes": len(png)}
        images.append({**told, "sha256": hashlib.sha256(png).hexdigest(), "steps_skipped": skipped})
    return images


def _print(told: dict[str, Any], known: list[str]) -> None:
    print_warnings(told["warnings"], known)
    print_timings(told["timings"])
    print_skipped(told["images"], told["input"]["num_inference_steps"])
    for image in told["images"]:
        print(image["path"])
