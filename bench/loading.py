"""How long a checkpoint takes to load from a slow network file system: mapped alone, and read ahead.

    python -m bench.loading [--checkpoint DIR] [--milliseconds N ...] [--repeats N] [--out FILE]

The file system is `bench.slow_files`, mounted anew for each load, so that nothing of it is in memory; a local disk is
measured beside it, the files put out of memory. As root, on Linux, with libfuse 3 and mfusepy. A random checkpoint of
half a gigabyte is written where none is given. Each load is a process, in turns.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.setting import describe

# In a process of its own. Without read-ahead every file system passes for a local one.
LOAD = """
import sys, time
import torch
from pipeline import ZImagePipeline
from pipeline.checkpoint import read_ahead
if sys.argv[2] == "mapped alone":
    read_ahead.remote_type = lambda path: None
torch.set_num_threads(1)
start = time.perf_counter()
ZImagePipeline.from_pretrained(sys.argv[1], "cpu", torch.float32)
print(time.perf_counter() - start)
"""
WAYS = ("mapped alone", "read ahead")


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--checkpoint", type=Path, help="None: a random one, of half a gigabyte")
    parser.add_argument("--milliseconds", type=float, nargs="+", default=[2.0, 20.0], help="of each request's journey")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("bench/results/loading-fuse.json"))
    arguments = parser.parse_args()
    with nullcontext(arguments.checkpoint) if arguments.checkpoint else random_checkpoint() as checkpoint:
        weights = list(checkpoint.rglob("*.safetensors"))
        result: dict[str, Any] = {
            **describe("bench.loading", "torch", "safetensors", "mfusepy"),
            "bytes": sum(file.stat().st_size for file in weights),
            "local disk": _told([_from_disk(checkpoint, weights) for _ in range(arguments.repeats)]),
        }
        print("local disk", result["local disk"])
        for milliseconds in arguments.milliseconds:
            seconds: dict[str, list[float]] = {way: [] for way in WAYS}
            for _ in range(arguments.repeats):
                for way in WAYS:
                    with slow(checkpoint, milliseconds) as mount:
                        seconds[way].append(_load(mount, way))
            told = {way: _told(values) for way, values in seconds.items()}
            result[f"{milliseconds:g} ms a request"] = told
            print(f"{milliseconds:g} ms a request", told)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


@contextmanager
def random_checkpoint() -> Iterator[Path]:
    """Give a checkpoint whose layers are half as wide as Turbo's, and few."""
    import torch

    from pipeline.checkpoint.random import SIZES, write_random_checkpoint

    transformer = {**SIZES["tiny"].transformer, "dim": 1920, "n_heads": 15, "n_kv_heads": 15, "axes_dims": [32, 48, 48]}
    size = replace(SIZES["tiny"], dtype=torch.bfloat16, transformer=transformer)
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = Path(scratch) / "checkpoint"
        write_random_checkpoint(checkpoint, size)
        yield checkpoint


@contextmanager
def slow(folder: Path, milliseconds: float) -> Iterator[Path]:
    """Mount a folder as `bench.slow_files` shows it."""
    with tempfile.TemporaryDirectory() as mount:
        command = [sys.executable, "-m", "bench.slow_files", str(folder), mount, "--milliseconds", f"{milliseconds:g}"]
        server = subprocess.Popen(command)
        try:
            while not os.path.ismount(mount):
                if server.poll() is not None:
                    sys.exit("bench.slow_files could not mount: it needs root, /dev/fuse and libfuse 3")
                time.sleep(0.02)
            yield Path(mount)
        finally:
            subprocess.run(["umount", "--lazy", mount], check=False)  # noqa: S607
            server.terminate()
            server.wait()


def _from_disk(checkpoint: Path, weights: list[Path]) -> float:
    os.sync()  # what is not written yet stays in memory
    for path in weights:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return _load(checkpoint, "mapped alone")


def _load(checkpoint: Path, way: str) -> float:
    ran = subprocess.run([sys.executable, "-c", LOAD, str(checkpoint), way], capture_output=True, text=True, check=True)
    return float(ran.stdout)


def _told(seconds: list[float]) -> dict[str, Any]:
    return {"median": round(statistics.median(seconds), 2), "seconds": [round(each, 2) for each in seconds]}


if __name__ == "__main__":
    main()
