"""Finished jobs on the terminal: their images as files, how they went, and the exit code of those that failed."""

import json
import sys
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from cli.errors import ExitCode, UserError
from zimage import Job, ZImageClient


def output_path(out: Path, name: str, index: int, count: int) -> Path:
    """Return where image `index` of `count` goes, and make its folder.

    Args:
        out: a `.png` file (numbered when there are several images) or a folder.
        name: of the file in that folder, without index and ending.
        index: of the image.
        count: of all images.
    """
    numbered = f"-{index}" if count > 1 else ""
    if out.suffix.lower() == ".png" and not out.is_dir():
        path = out.with_stem(out.stem + numbered)
    else:
        path = out / f"{name}{numbered}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def save_images(client: ZImageClient, job: Job, out: Path) -> list[Path]:
    """Download a job's images, check them and write them.

    Raises:
        ServiceError: the storage refused, or the bytes are not those that the service reported.
        OSError: a file can't be written.
    """
    return [
        write_file(output_path(out, job["id"], image["index"], len(job["images"])), client.download(image))
        for image in job["images"]
    ]


def write_file(path: Path, content: bytes) -> Path:
    """Write a file whole or not at all, and return its path."""
    draft = path.with_name(f".{path.name}.part")
    draft.write_bytes(content)
    draft.replace(path)
    return path


def print_json(value: object) -> None:
    """Print a value as JSON; in ASCII where stdout's encoding lacks a character."""
    text = json.dumps(value, ensure_ascii=False, indent=2)
    try:
        text.encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        text = json.dumps(value, indent=2)
    print(text)


def print_timings(timings: Mapping[str, float]) -> None:
    """Tell on stderr where the time went."""
    print("  ".join(f"{stage} {seconds:.3f} s" for stage, seconds in timings.items()), file=sys.stderr)


def print_skipped(images: Iterable[Mapping[str, Any]], steps: int) -> None:
    """Tell on stderr how many steps of each image skipped layers, where any did; earlier releases tell of none."""
    skipped = [image.get("steps_skipped", 0.0) for image in images]
    if any(skipped):
        print(f"skipped layers in {', '.join(f'{number:g}' for number in skipped)} of {steps} steps", file=sys.stderr)


def finish(client: ZImageClient, job: Job, out: Path | None, as_json: bool, told: Collection[str] = ()) -> None:
    """Hand over an ended job: its images' files, or else URLs, on stdout.

    Args:
        client: of the service.
        job: the job.
        out: where the files go, see `output_path`; None: nowhere.
        as_json: prints the job instead.
        told: those of its warnings that were told before.

    Raises:
        UserError: the job did not succeed.
        ServiceError: an image can't be downloaded.
    """
    paths = save_images(client, job, out) if out else []
    if as_json:
        images: list[dict[str, Any]] = [dict(image) for image in job["images"]]
        for image, path in zip(images, paths, strict=False):
            image["path"] = str(path)
        print_json({**job, "images": images})
    else:
        print_warnings(job["warnings"], told)
        print_timings(job["timings"])
        print_skipped(job["images"], job["progress"]["total"])
        for line in map(str, paths) if out else (image["url"] for image in job["images"]):
            print(line)
    if job["status"] != "succeeded":
        raise UserError(ended_badly(job), ExitCode.JOB_FAILED)


def print_warnings(warnings: Iterable[str], told: Collection[str] = ()) -> None:
    """Tell them, but for those told before, beside what the command prints."""
    for warning in warnings:
        if warning not in told:
            print(f"warning: {warning}", file=sys.stderr)


def ended_badly(job: Job) -> str:
    """Tell how a job ended that did not succeed."""
    error = job["error"]
    return f"{job['id']} {job['status']}" + (f": {error['message']} ({error['code']})" if error else "")
