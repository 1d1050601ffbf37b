"""How many GPUs each part beside them carries, as it is set up by the overlay `gpu-keda`: the least gives way first."""

import json
import re
from pathlib import Path

import yaml

from jobs.settings import Settings

RESULTS = Path("bench/results")
KUBERNETES = Path("deploy/kubernetes")
ENDED_JOB_BYTES = 2500  # of Redis' memory, with all of its keys: docs/reliability.md
REDIS_CONNECTIONS = 10_000  # Valkey's `maxclients` where nothing is said of it
S3_PUTS_PER_SECOND = 3500  # of one prefix, says AWS' "Best practices design patterns: optimizing Amazon S3 performance"
PUTS_OF_A_JOB = 2  # the image and job.json


def limits(jobs_per_second: float, *, spike_seconds: float, spike_share: float) -> dict[str, float]:
    """Return GPUs by what gives way beyond them, least first.

    Args:
        jobs_per_second: what a GPU draws; all of them draw all the time.
        spike_seconds: how long after a spike's beginning no new worker is ready.
        spike_share: the spike's load, as a share of the fleet.
    """
    overlay = (KUBERNETES / "overlays" / "gpu" / "settings.env").read_text()
    (job_ttl,) = re.findall(r"^ZIMAGE_JOB_TTL=(\d+)$", overlay, re.MULTILINE)
    queue = json.loads((RESULTS / "queue.json").read_text())
    soak = json.loads((RESULTS / "chaos" / "soak.json").read_text())
    megabytes = re.search(r"^maxmemory (\d+)mb$", (KUBERNETES / "valkey" / "valkey.conf").read_text(), re.MULTILINE)
    assert megabytes
    api = next(yaml.safe_load_all((KUBERNETES / "base" / "api-scaling.yaml").read_text()))
    redis_seconds = (
        jobs_per_second * queue["redis_per_job"]["cpu_seconds"] + queue["redis_per_second_without_jobs"]["cpu_seconds"]
    )
    carried = {
        "Redis' memory, jobs kept for ZIMAGE_JOB_TTL": int(megabytes[1])
        * 2**20
        / (ENDED_JOB_BYTES * int(job_ttl) * jobs_per_second),
        "ZIMAGE_QUEUE_LIMIT, in a spike until new workers are ready": Settings.model_fields["queue_limit"].default
        / (spike_seconds * spike_share * jobs_per_second),
        "Redis' CPU, one core": 1 / redis_seconds,
        "Redis' connections": REDIS_CONNECTIONS / soak["growth"]["worker"]["sockets"]["in_the_end"],
        "the API's POSTs, one at a time in each pod": api["spec"]["maxReplicas"]
        / (queue["idle"]["post_ms"] / 1000 * jobs_per_second),
        "S3's PUTs below one prefix": S3_PUTS_PER_SECOND / (PUTS_OF_A_JOB * jobs_per_second),
    }
    return dict(sorted(carried.items(), key=lambda item: item[1]))
