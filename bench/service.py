"""The whole service under load: jobs posted at once over HTTP, drawn by the workers of the embedded stack.

python -m bench.service [--model DIR] [--jobs N] [--size N …] [--workers N] [--out FILE]

Several sizes are taken in turns. With ZIMAGE_VRAM_BUDGET the workers keep within it, as if their card had no more.
"""

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import torch

from bench.setting import describe
from cli.stack import Stack

STEPS = 8
numbers = itertools.count()
PROMPT = "Young Chinese woman in red Hanfu, intricate embroidery, holding a round folding fan with lady, trees, bird."


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--model", default="tiny", help="ZIMAGE_MODEL of the workers")
    parser.add_argument("--jobs", type=int, default=20)
    parser.add_argument("--size", type=int, nargs="+", default=[1024], help="sides of the pictures, pixels")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("bench/results/service.json"))
    arguments = parser.parse_args()
    start = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as data,
        Stack(data, workers=arguments.workers, model=arguments.model) as stack,
        httpx.Client(base_url=stack.api_url, timeout=90) as http,
    ):
        while http.get("/v1/queue").json()["workers"] < arguments.workers:
            time.sleep(0.1)
        ready_seconds = time.monotonic() - start
        sizes = itertools.cycle(arguments.size)
        one = run(http, 5, sizes, at_once=False)
        many = run(http, arguments.jobs, sizes, at_once=True)
        exposed = http.get(stack.worker_metrics_urls[0]).text.split("\n")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    result = {
        **describe("bench.service", "torch", device=device),
        "worker": next(line for line in exposed if line.startswith("zimage_worker_info{")),
        "plan": [line for line in exposed if line.startswith("zimage_plan_")],
        "ready_seconds": ready_seconds,
        "one_at_a_time": one,
        "all_at_once": many,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def run(http: httpx.Client, count: int, sizes: Iterator[int], *, at_once: bool) -> dict[str, Any]:
    """Post jobs and see them to their end; return throughput, latencies and the median of each stage, in seconds."""
    start = time.monotonic()
    if at_once:
        jobs = [ended(http, url) for url in [submit(http, next(sizes)) for _ in range(count)]]
    else:
        jobs = [ended(http, submit(http, next(sizes))) for _ in range(count)]
    seconds = time.monotonic() - start
    totals = [job["timings"]["total"] for job in jobs]
    return {
        "jobs": count,
        "images_per_second": count / seconds,
        "latency_median": statistics.median(totals),
        "latency_max": max(totals),
        "stages_median": {
            stage: statistics.median(job["timings"][stage] for job in jobs) for stage in jobs[0]["timings"]
        },
        "peak_vram_mib": max(job["peak_vram_bytes"] for job in jobs) / 2**20,
    }


def submit(http: httpx.Client, size: int) -> str:
    """Post a job; return its URL."""
    prompt = f"{PROMPT} {next(numbers)}"  # a new one each time: workers keep features of prompts that come again
    body = {"prompt": prompt, "width": size, "height": size, "num_inference_steps": STEPS}
    url: str = http.post("/v1/jobs", json=body).raise_for_status().json()["urls"]["self"]
    return url


def ended(http: httpx.Client, url: str) -> dict[str, Any]:
    """Wait for a job's success."""
    while True:
        job: dict[str, Any] = http.get(url, headers={"Prefer": "wait=60"}).json()
        if job["status"] not in ("queued", "running"):
            if job["status"] != "succeeded":
                raise RuntimeError(f"{job['id']}: {job['status']}, {job['error']}")
            return job


if __name__ == "__main__":
    main()
