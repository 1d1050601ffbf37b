"""Scaling on paper: waits and GPU-hours of fleets of up to 10,000 GPUs under KEDA, and what gives way first.

    python -m bench.scaling.simulate [--out FILE]

Simulates (`scaled_service`) the scaling of the overlay `gpu-keda` and what differs from it in one thing. Each job
takes what one takes a loaded worker on an H100 in bf16 (`bench.service`), and waits are told in quarters of that; what
a node, an image and the weights take is assumed.
"""

import argparse
import itertools
import json
import math
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from bench.scaling.autoscaler import SCALE_DOWN, ScaledObject
from bench.scaling.scaled_service import QUARTERS, SEED, Service, Start
from bench.scaling.scaling_limits import RESULTS, limits
from bench.setting import describe

OVERLAY = Path("deploy/kubernetes/overlays/gpu-keda/worker-scaling.yaml")
FLEETS = (16, 100, 1_000, 10_000)  # GPUs that there are at most
USUAL_FLEET = 100  # the one that all else is tried with
TARGETS = (8.0, 2.0, 1.0, 0.9, 0.8)
HOURS = {"steady": 8, "diurnal": 24, "bursty": 24, "spike": 3}
PEAK = 0.8  # of the fleet, in a spike of a hundred times the load before
WARM_POOLS = (30, 60)

# Assumed: 3 min for a machine with a GPU, 90 s for the image, 20 s for 20 GB of weights at 1 GB/s.
NODE_SECONDS, IMAGE_SECONDS, WEIGHTS_SECONDS = 180.0, 90.0, 20.0


@dataclass(frozen=True)
class Case:
    """One simulation: a load on a fleet."""

    question: str
    load: str
    fleet: int
    scaling: ScaledObject
    start: Start


def share_of_fleet(load: str, hours: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a load over time, as the share of a fleet that it keeps busy."""
    if load == "steady":
        return np.full_like(hours, 0.6)
    if load == "diurnal":
        return 0.4 - 0.3 * np.cos(hours * 2 * np.pi / 24)
    if load == "bursty":  # of 5 min in the mean, 15 min apart
        lengths = np.random.default_rng(SEED).exponential([0.25, 1 / 12], (500, 2)).ravel()
        return np.where(np.searchsorted(lengths.cumsum(), hours) % 2, 0.6, 0.05)
    return np.where((hours >= 1) & (hours < 1.25), PEAK, PEAK / 100)


def simulate(case: Case, job_seconds: float) -> dict[str, Any]:
    """Run a case; waits in seconds from accepted to drawn, GPU-hours from a node's arrival to its pod's end."""
    hours = np.arange(0, HOURS[case.load], job_seconds / QUARTERS / 3600)
    jobs = share_of_fleet(case.load, hours) * case.fleet / QUARTERS
    arrivals: list[int] = np.random.default_rng(SEED).poisson(jobs).tolist()
    at_first = math.ceil(jobs[0] * QUARTERS * 1.25)  # workers for what comes, and a quarter more
    scaling = replace(case.scaling, max_replicas=case.fleet)
    service = Service(scaling, arrivals, job_seconds, case.start, max(at_first, scaling.min_replicas))
    service.run()
    return {
        "question": case.question,
        "load": case.load,
        "gpus": case.fleet,
        "target": scaling.target,
        "metric": scaling.metric,
        "min_replicas": scaling.min_replicas,
        "scale_down": asdict(scaling.scale_down),
        "start_seconds": case.start.seconds,
        "jobs": sum(arrivals),
        "wait_p50": quantile(service.waits, 0.5) * job_seconds / QUARTERS,
        "wait_p99": quantile(service.waits, 0.99) * job_seconds / QUARTERS,
        "gpu_hours": service.gpu_seconds / 3600,
        "gpu_hours_for_each_of_work": service.gpu_seconds / (sum(arrivals) * job_seconds),
        "most_queued": service.most_queued,
        "most_workers": service.most_replicas,
        "drained_while_drawing": service.drained,
    }


def quantile(counts: Counter[int], share: float) -> int:
    """Return the value that `share` of what was counted does not exceed."""
    left = share * counts.total()
    for value in sorted(counts):
        left -= counts[value]
        if left <= 0:
            return value
    raise ValueError("nothing was counted")


def cases(scaling: ScaledObject, ready_seconds: float) -> Iterator[Case]:
    """Yield what is simulated; each question varies one thing of the overlay."""
    ordered = Start(NODE_SECONDS, IMAGE_SECONDS + WEIGHTS_SECONDS + ready_seconds)
    starts = (Start(0.0, WEIGHTS_SECONDS + ready_seconds), Start(2 * NODE_SECONDS, 2 * ordered.pod))
    slow = replace(scaling.scale_down, window_seconds=900.0)
    for load in HOURS:
        for fleet, target in itertools.product(FLEETS, TARGETS):
            yield Case("target", load, fleet, replace(scaling, target=target), ordered)
        for start in starts:
            yield Case("start", load, USUAL_FLEET, scaling, start)
        for down in (SCALE_DOWN, slow):
            yield Case("scale down", load, USUAL_FLEET, replace(scaling, scale_down=down), ordered)
        yield Case("queued alone", load, USUAL_FLEET, replace(scaling, metric="queued"), ordered)
    for load, pool in itertools.product(("bursty", "spike"), WARM_POOLS):
        yield Case("warm pool", load, USUAL_FLEET, replace(scaling, min_replicas=pool), ordered)


def show(rows: list[dict[str, Any]]) -> None:
    """Print a table."""
    table = Table(
        "question", "load", "GPUs", "scaled on", "start s", "p50 s", "p99 s", "GPU-h", "per h of work", "queued"
    )
    for row in rows:
        down = row["scale_down"]
        table.add_row(
            row["question"],
            row["load"],
            f"{row['gpus']:,}",
            f"{row['target']:g} {row['metric']}, min {row['min_replicas']}, "
            f"down {down['policies'][0]['value']:g} % after {down['window_seconds']:g} s",
            f"{row['start_seconds']:.0f}",
            f"{row['wait_p50']:.1f}",
            f"{row['wait_p99']:.1f}",
            f"{row['gpu_hours']:,.0f}",
            f"{row['gpu_hours_for_each_of_work']:.2f}",
            f"{row['most_queued']:,}",
        )
    Console(width=150).print(table)


def main() -> None:
    """Run the simulations from the command line; some minutes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=RESULTS / "scaling.json")
    arguments = parser.parse_args()
    scaling = ScaledObject.from_manifest(next(yaml.safe_load_all(OVERLAY.read_text())))
    job_seconds = 1 / json.loads((RESULTS / "service-h100.json").read_text())["all_at_once"]["images_per_second"]
    ready_seconds = json.loads((RESULTS / "service-h100-first.json").read_text())["ready_seconds"]
    todo = list(cases(scaling, ready_seconds))
    carried = limits(1 / job_seconds, spike_seconds=todo[0].start.seconds, spike_share=PEAK)
    with ProcessPoolExecutor() as pool:
        rows = list(pool.map(simulate, todo, itertools.repeat(job_seconds)))
    result = {
        **describe("bench.scaling.simulate", "simpy", "numpy"),
        "job_seconds": job_seconds,
        "overlay": asdict(scaling),
        "assumed": {"node_seconds": NODE_SECONDS, "image_seconds": IMAGE_SECONDS, "weights_seconds": WEIGHTS_SECONDS},
        "rows": rows,
        "gpus_that_each_part_carries": carried,
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    show(rows)
    for part, gpus in carried.items():
        print(f"{part}: {int(gpus):,} GPUs")


if __name__ == "__main__":
    main()
