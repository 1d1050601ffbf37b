"""How busy workers may be, all the time, for 99 of 100 jobs to begin within some seconds.

    python -m bench.scaling.wait_targets [--out FILE]

A fixed number of workers and jobs that come at random (Poisson), as long as one job takes a loaded worker on an H100 in
bf16 (`bench.service`). Where all jobs are alike that is simulated (`scaled_service`), in steps of a hundredth of
utilisation; where their lengths differ as much as an exponential distribution's, Erlang's formula C tells. Real mixes
of sizes and steps are between both.
"""

import argparse
import bisect
import itertools
import json
import math
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np

from bench.scaling.autoscaler import ScaledObject
from bench.scaling.scaled_service import QUARTERS, SEED, Service, Start
from bench.scaling.scaling_limits import RESULTS
from bench.scaling.simulate import quantile
from bench.setting import describe

HOURS = 200.0  # of load
WORKERS = (1, 4, 16, 100)
TARGETS = (10.0, 30.0, 60.0)  # seconds
LATE = 0.01  # of the jobs may begin later
UTILISATIONS = [percent / 100 for percent in range(50, 100)]


def simulated_wait(workers: int, utilisation: float, job_seconds: float, hours: float = HOURS) -> float:
    """Return what 99 % of the jobs do not wait longer than, in seconds; all jobs are alike."""
    steps = round(hours * 3600 / job_seconds * QUARTERS)
    arrivals: list[int] = np.random.default_rng(SEED).poisson(utilisation * workers / QUARTERS, steps).tolist()
    fixed = ScaledObject(target=1.0, min_replicas=workers, max_replicas=workers)
    service = Service(fixed, arrivals, job_seconds, Start(0.0, 0.0), workers)
    service.run()
    return quantile(service.waits, 1 - LATE) * job_seconds / QUARTERS


def erlang_wait(workers: int, utilisation: float, job_seconds: float) -> float:
    """Return the same where the jobs' lengths are distributed exponentially."""
    blocked = 1.0  # Erlang's formula B, by its recursion
    for count in range(1, workers + 1):
        blocked = utilisation * workers * blocked / (count + utilisation * workers * blocked)
    waits = blocked / (1 - utilisation * (1 - blocked))  # formula C: the share of jobs that wait at all
    return max(0.0, math.log(waits / LATE)) * job_seconds / (workers * (1 - utilisation))


def busiest(target: float, wait: Callable[[float], float]) -> float:
    """Return the highest of the utilisations at which a wait stays within a target in seconds."""
    return UTILISATIONS[bisect.bisect_right(UTILISATIONS, target, key=wait) - 1]


def rows(workers: int, job_seconds: float) -> list[dict[str, float]]:
    """Return one number of workers' utilisations, a row for each target."""
    alike = cache(lambda utilisation: simulated_wait(workers, utilisation, job_seconds))
    return [
        {
            "workers": workers,
            "wait_p99": target,
            "alike": busiest(target, alike),
            "mixed": busiest(target, lambda utilisation: erlang_wait(workers, utilisation, job_seconds)),
        }
        for target in TARGETS
    ]


def main() -> None:
    """Simulate from the command line; some minutes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=RESULTS / "wait-targets.json")
    arguments = parser.parse_args()
    job_seconds = 1 / json.loads((RESULTS / "service-h100.json").read_text())["all_at_once"]["images_per_second"]
    with ProcessPoolExecutor() as pool:
        every = list(itertools.chain.from_iterable(pool.map(rows, WORKERS, itertools.repeat(job_seconds))))
    result = {
        **describe("bench.scaling.wait_targets", "simpy", "numpy"),
        "job_seconds": job_seconds,
        "hours": HOURS,
        "rows": every,
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    for row in every:
        print(row)


if __name__ == "__main__":
    main()
