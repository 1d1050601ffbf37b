"""What became of every job that a tenant was promised, as the service tells its owner in the end."""

import hashlib
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from bench.tenants.tenant import Tenant

Job = dict[str, Any]


@dataclass
class Ended:
    """What became of a tenant's jobs."""

    statuses: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)


def account(tenant: Tenant, accepted: Sequence[str], pictures: Mapping[str, str]) -> Ended:
    """Look for every job; a job is lost that its owner is not shown.

    Args:
        tenant: whose they are.
        accepted: their ids.
        pictures: SHA-256 of those that were fetched before, by job: they are fetched again.
    """
    ended = Ended()
    transport = httpx.HTTPTransport(local_address=tenant.address)
    with (
        httpx.Client(base_url=tenant.api_url, transport=transport, headers=tenant.headers, timeout=90) as client,
        httpx.Client() as storage,
    ):
        jobs = all_jobs(client)
        for job_id in accepted:
            if job_id not in jobs:
                ended.lost.append(job_id)
                continue
            ended.statuses[jobs[job_id]["status"]] += 1
        for job_id, digest in pictures.items():
            images = jobs[job_id]["images"] if job_id in jobs else []
            if [hashlib.sha256(storage.get(image["url"]).content).hexdigest() for image in images] != [digest]:
                ended.damaged.append(job_id)
    return ended


def all_jobs(client: httpx.Client) -> dict[str, Job]:
    """Return all jobs of who asks, by id."""
    jobs: dict[str, Job] = {}
    cursor: dict[str, str] = {}
    while True:
        page = patiently(client, {"limit": "100", **cursor})
        jobs |= {job["id"]: job for job in page["jobs"]}
        if not page["next_cursor"]:
            return jobs
        cursor = {"cursor": page["next_cursor"]}


def patiently(client: httpx.Client, parameters: Mapping[str, str]) -> dict[str, Any]:
    """Return a page of the list, as soon as so much may be asked."""
    while (response := client.get("/v1/jobs", params=parameters)).status_code == httpx.codes.TOO_MANY_REQUESTS:
        time.sleep(float(response.headers["Retry-After"]))
    page: dict[str, Any] = response.raise_for_status().json()
    return page
